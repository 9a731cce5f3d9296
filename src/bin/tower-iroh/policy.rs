//! A file that says who may call what, and that is followed.

use std::{path::Path, time::Duration};

use tokio::{task::JoinHandle, time::sleep};
use tower_iroh::{
    layers::authorize::{AccessPolicy, PolicyHandle},
    peer_name,
};

use crate::failure::Failure;

/// How often the file is read.
const INTERVAL: Duration = Duration::from_millis(500);

/// Puts the file in force again when its text has changed. Dropping it ends that.
pub(crate) struct Following(JoinHandle<()>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads a policy, and follows its file.
pub(crate) fn follow(path: &Path) -> Result<(PolicyHandle, Following), Failure> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    let policy = parse(&text).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    let policy = PolicyHandle::new(policy);
    let following = tokio::spawn(following(path.to_owned(), text, policy.clone()));
    Ok((policy, Following(following)))
}

fn parse(text: &str) -> Result<AccessPolicy, String> {
    AccessPolicy::from_toml_with(text, peer_name).map_err(|error| error.to_string())
}

async fn following(path: std::path::PathBuf, mut last: String, policy: PolicyHandle) {
    let name = path.display();
    // What was read last time: a text counts once it was read twice, since the first time it may be half written.
    let mut before = None;
    loop {
        sleep(INTERVAL).await;
        let Ok(now) = tokio::fs::read_to_string(&path).await else {
            // An editor may be about to put another file in its place.
            continue;
        };
        if now == last {
            before = None;
            continue;
        }
        if before.as_ref() != Some(&now) {
            before = Some(now);
            continue;
        }
        match parse(&now) {
            Ok(new) => {
                policy.reload(new);
                eprintln!("the policy {name} is in force");
            }
            Err(error) => eprintln!("{name}: {error}; the policy before stays in force"),
        }
        last = now;
    }
}
