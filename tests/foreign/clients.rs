//! What is installed, and a client that runs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};
use tower_iroh_proto::FILE_DESCRIPTOR_SET;

use crate::route::Route;

/// What no case may exceed. A call that hangs ends after 40 s, and the client says which.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A program that runs the cases by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    Python,
    JavaScript,
}

impl Client {
    pub fn name(self) -> &'static str {
        match self {
            Client::Python => "python",
            Client::JavaScript => "javascript",
        }
    }

    /// Why the client cannot run here.
    pub fn missing(self) -> Option<String> {
        match self {
            Client::Python => not_installed("grpcio", "requirements.txt"),
            Client::JavaScript => no_node().or_else(|| not_installed("grpc-js", NODE_MODULES)),
        }
    }

    /// Starts the client with these cases.
    pub fn start(self, route: &Route, cases: &[&str]) -> Run {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let scratch = tempfile::tempdir().expect("a folder");
        let mut command = match self {
            Client::Python => {
                let descriptors = scratch.path().join("descriptors.bin");
                fs::write(&descriptors, FILE_DESCRIPTOR_SET).expect("written");
                let mut command = Command::new(folder().join("venv/bin/python"));
                command.arg(here.join("tests/foreign/client.py"));
                command.arg("--descriptors").arg(descriptors);
                command
            }
            Client::JavaScript => {
                let mut command = Command::new("node");
                command.env("NODE_PATH", folder().join("node_modules"));
                command.arg(here.join("tests/foreign/client.js"));
                command.arg("--protos").arg(here.join("proto/proto"));
                command
            }
        };
        // How long `keepalive` is quiet. Six pings show as much as thirty, and take less of everybody's time.
        let seconds = env::var("TOWER_IROH_FOREIGN_SECONDS").unwrap_or("6".to_owned());
        command
            .args(["--target", &route.target, "--seconds", &seconds])
            .args(cases)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        route.set_proxy(&mut command);
        let mut child = command.spawn().expect("the client starts");
        Run {
            stdin: child.stdin.take().expect("piped"),
            lines: BufReader::new(child.stdout.take().expect("piped")).lines(),
            child,
            cases: cases.len(),
            _scratch: scratch,
        }
    }
}

/// A client that runs. It ends with the test.
pub struct Run {
    cases: usize,
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    _scratch: tempfile::TempDir,
}

impl Run {
    /// Waits until the client says that it is so far.
    pub async fn event(&mut self, name: &str) {
        let line = self.line().await;
        assert_eq!(line["event"], name, "{line}");
    }

    pub async fn say(&mut self, word: &str) {
        let line = format!("{word}\n");
        let written = self.stdin.write_all(line.as_bytes()).await;
        written.expect("the client listens");
    }

    /// What the client says of its last case; panics with the client's reason if a case failed.
    pub async fn passed(mut self) -> String {
        let mut detail = String::new();
        for _ in 0..self.cases {
            let line = self.line().await;
            assert!(line["ok"] == true, "{line:#}");
            eprintln!("{} after {} s", line["case"], line["seconds"]);
            detail = line["detail"].as_str().unwrap_or_default().to_owned();
        }
        let status = self.child.wait().await.expect("started");
        assert!(status.success(), "{status}");
        detail
    }

    async fn line(&mut self) -> Value {
        let line = self.lines.next_line().await.expect("readable");
        let line = line.expect("the client ended without a verdict");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}

/// `buf`, if it is installed.
pub fn buf() -> PathBuf {
    folder().join("node_modules/.bin/buf")
}

/// Why `buf` cannot run here.
pub fn buf_missing() -> Option<String> {
    no_node().or_else(|| not_installed("buf", NODE_MODULES))
}

/// Chromium, if it is installed.
pub fn chromium() -> Option<PathBuf> {
    let names = [
        "chromium-headless-shell",
        "chromium",
        "chromium-browser",
        "google-chrome",
    ];
    names.into_iter().find_map(in_path)
}

/// Why Chromium cannot run here.
pub fn chromium_missing() -> Option<String> {
    let why = "needs Chromium, which is not in PATH; tests/foreign/install installs it";
    chromium().is_none().then(|| why.to_owned())
}

/// grpc-js is run by it, and so is buf's program.
fn no_node() -> Option<String> {
    let why = "needs node, which is not in PATH";
    in_path("node").is_none().then(|| why.to_owned())
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|program| program.is_file())
}

/// What tests/foreign/install leaves once `node_modules` is complete.
const NODE_MODULES: &str = "package-lock.installed.json";

/// tests/foreign/install leaves this file once the client is complete.
fn not_installed(client: &str, mark: &str) -> Option<String> {
    let folder = folder();
    (!folder.join(mark).is_file()).then(|| {
        let folder = folder.display();
        format!("needs {client}, which is not in {folder}; tests/foreign/install installs it")
    })
}

/// Where tests/foreign/install installs to.
fn folder() -> PathBuf {
    match env::var_os("TOWER_IROH_FOREIGN") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/foreign"),
    }
}
