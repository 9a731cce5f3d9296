//! The program while it runs.

use std::{ffi::OsStr, process::ExitStatus, sync::Arc};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use crate::support::{PATIENCE, program};

/// The program as a child. It is killed when it is dropped.
pub struct Running {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: watch::Receiver<String>,
    _reading: JoinHandle<()>,
}

impl Running {
    pub fn start<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Self {
        Self::run(program(args))
    }

    pub fn run(mut command: Command) -> Self {
        command.stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped());
        let mut child = command.spawn().expect("started");
        let stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (text, stderr) = watch::channel(String::new());
        let reading = tokio::spawn(collect(child.stderr.take().expect("piped"), text));
        Self {
            child,
            stdout,
            stderr,
            _reading: reading,
        }
    }

    /// An endpoint in front of a server, and its ticket.
    pub async fn expose(args: &[&str]) -> (Self, String) {
        let mut running = Self::start(["expose", "--bind", "127.0.0.1:0"].iter().chain(args));
        let ticket = running.line().await;
        (running, ticket)
    }

    /// A gateway on a free port, and its address.
    pub async fn gateway(args: &[&str]) -> (Self, String) {
        let args = ["gateway", "--bind", "127.0.0.1:0"].iter().chain(args);
        let args: Vec<_> = match args.clone().any(|arg| arg.starts_with("--listen")) {
            true => args.collect(),
            false => args.chain(&["--listen", "127.0.0.1:0"]).collect(),
        };
        let mut running = Self::start(args);
        let address = running.line().await;
        (running, address)
    }

    /// The next line of standard output.
    pub async fn line(&mut self) -> String {
        match self.first_line().await {
            Some(line) => line,
            None => panic!("it has ended: {}", *self.stderr.borrow()),
        }
    }

    /// The first line of standard output; `None` if the program ended without one.
    pub async fn first_line(&mut self) -> Option<String> {
        let line = timeout(PATIENCE, self.stdout.next_line()).await;
        line.expect("in time").expect("text")
    }

    /// All of standard error, once the program has ended.
    pub async fn all_it_said(&mut self) -> String {
        self.ended().await;
        let closed = async { while self.stderr.changed().await.is_ok() {} };
        timeout(PATIENCE, closed).await.expect("in time");
        self.stderr.borrow().clone()
    }

    /// Waits until standard error has this text, and returns all of standard error.
    pub async fn says(&mut self, text: &str) -> String {
        let said = self.stderr.wait_for(|said| said.contains(text));
        if let Ok(Ok(said)) = timeout(PATIENCE, said).await {
            return said.clone();
        }
        panic!("no {text:?} in {:?}", *self.stderr.borrow())
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it is running")
    }

    /// Sends a signal by its name.
    pub async fn signal(&self, name: &str) {
        let pid = self.id();
        // The standard library sends no signals; every shell does.
        let kill = Command::new("sh")
            .args(["-c", &format!("kill -{name} {pid}")])
            .status()
            .await;
        assert!(kill.expect("a shell").success());
    }

    /// Waits until the program has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = timeout(PATIENCE, self.child.wait()).await.expect("in time");
        status.expect("a status")
    }

    pub async fn kill(&mut self) {
        self.child.kill().await.expect("it was running");
    }
}

async fn collect(stream: impl AsyncRead + Unpin, text: watch::Sender<String>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        text.send_modify(|text| {
            text.push_str(&line);
            text.push('\n');
        });
    }
}

/// What a server has been sent, as far as it was asked to remember it.
pub type Seen<T> = Arc<std::sync::Mutex<T>>;
