//! `call`, `list`, `describe` and `health`, over iroh and over plain TCP.

#[path = "../support/mod.rs"]
pub mod harness;

mod any;
mod errors;
mod flags;
mod health;
mod hostile;
mod kinds;
mod schema;
mod servers;

use serde_json::Value;

use self::harness::{Arm, ServerOptions, World};
use crate::support::{Ended, run};

pub const SERVICE: &str = "tower_iroh.testing.v1.TestService";
const ECHO: &str = "tower_iroh.echo.v1.Echo";

/// Where a server is, in the words of the command line.
pub struct Place {
    pub world: World,
    pub target: Vec<String>,
}

impl Place {
    pub async fn new(arm: Arm) -> Self {
        let world = World::start(arm, ServerOptions::default()).await;
        let target = match world.ticket() {
            Some(ticket) => vec![ticket],
            None => {
                let addr = world.server_addr().expect("a server on TCP");
                vec![format!("tcp://{addr}"), "-plaintext".to_owned()]
            }
        };
        Self { world, target }
    }

    /// One server over iroh, and one over TCP that knows nothing of iroh.
    pub async fn both() -> [Self; 2] {
        [Self::new(Arm::Channel).await, Self::new(Arm::Tcp).await]
    }

    /// The command line of a verb.
    pub fn args(&self, verb: &str, rest: &[&str]) -> Vec<String> {
        let target: Vec<_> = self.target.iter().map(String::as_str).collect();
        let words = [&[verb][..], &target, rest].concat();
        words.into_iter().map(String::from).collect()
    }

    pub async fn run(&self, verb: &str, rest: &[&str]) -> Ended {
        run(self.args(verb, rest)).await
    }

    /// Calls a method of the test service.
    async fn call(&self, method: &str, rest: &[&str]) -> Ended {
        let name = format!("{SERVICE}/{method}");
        self.run("call", &[&[name.as_str()], rest].concat()).await
    }
}

/// The values that were printed, one after the other.
fn values(text: &str) -> Vec<Value> {
    let values = serde_json::Deserializer::from_str(text).into_iter();
    values.collect::<Result<_, _>>().expect(text)
}

fn assert_ok(ended: &Ended) {
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
}
