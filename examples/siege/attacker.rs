//! An attack's process, seen from outside, and what it says about itself at the end.

use std::{process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::timeout};

use crate::Error;

/// What an attack did.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Datagrams over UDP that it made itself, and frames of HTTP/2.
    pub(crate) packets: u64,
    /// What it wrote, in bytes, above TLS and QUIC where it used those.
    pub(crate) bytes: u64,
    /// Sockets and connections that it opened.
    pub(crate) sockets: u64,
    /// How often the server ended a connection or refused one.
    pub(crate) ended: u64,
}

/// Runs an attack in a process of its own, which ends without a word to the server.
pub(crate) async fn attack(name: &str, ticket: &str, time: Duration) -> Result<Cost, Error> {
    let child = Command::new(std::env::current_exe()?)
        .args(["attack", name, ticket, &time.as_secs_f64().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    // It keeps the time itself; this is for one that cannot.
    let most = time + Duration::from_secs(20);
    let output = timeout(most, child.wait_with_output()).await;
    let output = output.map_err(|_| format!("{name} did not end"))??;
    if !output.status.success() {
        return Err(format!("{name} failed: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
