//! The program as a child, and servers for it to call.

use std::{
    ffi::OsStr,
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// How long a run may take; most take less than a second.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The program, without what the environment of whoever runs the tests would tell it. It ends with the test.
pub fn program<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tower-iroh"));
    command
        .args(args)
        .env_remove("IROH_SECRET")
        .env_remove("TOWER_IROH_CONFIG")
        .env_remove("TOWER_IROH_KEY")
        .env("TOWER_IROH_RELAY", "disabled")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs the program to its end.
pub async fn run<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Ended {
    ended(spawn(args)).await
}

/// Starts the program, whose output is read.
pub fn spawn<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Child {
    let mut command = program(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("started")
}

/// Waits for the program's end.
pub async fn ended(child: Child) -> Ended {
    let output = timeout(PATIENCE, child.wait_with_output()).await;
    Ended::from(output.expect("in time").expect("a status"))
}

/// What the program printed, and its exit code.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}
