//! The server as a child: this program again, told by its environment to serve.

use std::{env, net::SocketAddr, process::ExitCode, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::support::{Arm, ServerOptions, World};

const SERVE: &str = "TOWER_IROH_TEST_SERVE";

/// The port to serve on, if this process is to be the server.
pub fn asked_for() -> Option<u16> {
    let port = env::var(SERVE).ok()?;
    Some(port.parse().expect("a port"))
}

/// Serves until it is killed.
pub fn serve(port: u16) -> ExitCode {
    let options = ServerOptions {
        port,
        ..ServerOptions::default()
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let world = World::start(Arm::Tcp, options).await;
        println!("{}", world.server_addr().expect("it listens on TCP"));
        std::future::pending().await
    })
}

/// A server that can be killed. It ends with the test.
pub struct Server {
    child: Child,
    pub addr: SocketAddr,
}

impl Server {
    /// Starts it on this port; 0 is any free one.
    pub async fn start(port: u16) -> Self {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .env(SERVE, port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("this program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let addr = lines.next_line().await.expect("readable");
        let addr = addr.expect("the server listens");
        Self {
            child,
            addr: addr.parse().expect("an address"),
        }
    }

    /// Stops it: its kernel still takes what comes, and nothing is answered.
    pub fn stop(&self) {
        let process = self.child.id().expect("it runs");
        crate::signal("STOP", &process.to_string());
    }

    /// Kills it, as a crash would.
    pub async fn kill(mut self) -> u16 {
        self.child.kill().await.expect("it runs");
        self.addr.port()
    }
}
