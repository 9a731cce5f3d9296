//! An arm's process, seen from the bench.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{self, ChildStdin, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use crate::{
    arms::Arm,
    shared::{
        Fault, cpu,
        wire::{Answer, Command, Hello, Slice},
    },
};

/// An arm needs milliseconds to start; this is for a machine that is busy with something else.
const START: Duration = Duration::from_secs(20);
/// More than an arm gives itself before it says that a slice hangs.
const ANSWER: Duration = Duration::from_secs(10);

/// How long an arm may take to end by itself.
const END: Duration = Duration::from_millis(500);

/// An arm's process.
pub struct Child {
    pub arm: Arm,
    pub hello: Hello,
    process: process::Child,
    /// `None` once it is to end.
    stdin: Option<ChildStdin>,
    answers: mpsc::Receiver<Answer>,
    log: PathBuf,
    /// Processor time when its last slice was over, and what it used since then between slices.
    last_cpu: Option<u64>,
    pub idle_cpu: u64,
}

/// Why a slice has no figures.
pub enum Trouble {
    /// The arm said so, and is ready for the next slice.
    Failed(String),
    /// The process is gone or doesn't answer.
    Gone(String),
}

impl Child {
    /// Starts the arm and waits until its server and client are up. What it writes to standard error goes to `logs`.
    pub fn start(arm: Arm, program: &Path, args: &[&str], logs: &Path) -> Result<Self, Fault> {
        fs::create_dir_all(logs)?;
        let log = logs.join(format!("{}.log", arm.name));
        let mut process = process::Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().ok_or("no pipe")?;
        let (send, answers) = mpsc::channel();
        // A read of a pipe can't be given a deadline, a channel can.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let answer = match line {
                    Ok(line) => serde_json::from_str(&line)
                        .unwrap_or_else(|error| Answer::Failed(format!("{error}: {line:.200}"))),
                    Err(_) => break,
                };
                if send.send(answer).is_err() {
                    break;
                }
            }
        });
        let mut child = Self {
            arm,
            hello: Hello::default(),
            process,
            stdin,
            answers,
            log,
            last_cpu: None,
            idle_cpu: 0,
        };
        child.hello = match child.answer(START) {
            Ok(Answer::Ready(hello)) => hello,
            Ok(other) => return Err(format!("{} began with {other:?}", arm.name).into()),
            Err(trouble) => {
                return Err(format!("{} did not start: {}", arm.name, trouble.text()).into());
            }
        };
        Ok(child)
    }

    /// Has it run one slice.
    pub fn slice(&mut self, command: &Command) -> Result<Slice, Trouble> {
        let pid = self.process.id().to_string();
        if let (Some(last), Some(now)) = (self.last_cpu, cpu::nanoseconds(&pid)) {
            self.idle_cpu += now.saturating_sub(last);
        }
        let mut line =
            serde_json::to_vec(command).map_err(|error| Trouble::Gone(error.to_string()))?;
        line.push(b'\n');
        let told = match &mut self.stdin {
            Some(stdin) => stdin.write_all(&line).and_then(|()| stdin.flush()).is_ok(),
            None => false,
        };
        let answer = match told {
            true => self.answer(ANSWER),
            false => Err(Trouble::Gone(self.last_words("it ended"))),
        };
        self.last_cpu = cpu::nanoseconds(&pid);
        match answer? {
            Answer::Done(slice) => Ok(slice),
            Answer::Failed(why) => Err(Trouble::Failed(why)),
            Answer::Ready(_) => Err(Trouble::Gone("it began anew".into())),
        }
    }

    fn answer(&mut self, patience: Duration) -> Result<Answer, Trouble> {
        self.answers.recv_timeout(patience).map_err(|error| {
            Trouble::Gone(match error {
                RecvTimeoutError::Timeout => {
                    self.last_words(&format!("no answer within {} s", patience.as_secs()))
                }
                RecvTimeoutError::Disconnected => self.last_words("it ended"),
            })
        })
    }

    /// What happened, and the end of what it wrote about it.
    fn last_words(&self, what: &str) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(5)..].join("\n  ");
        format!("{what} ({})\n  {end}", self.log.display())
    }
}

impl Trouble {
    pub fn text(&self) -> &str {
        match self {
            Self::Failed(text) | Self::Gone(text) => text,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It ends with its input, and then its output ends; one that hangs is ended.
        self.stdin = None;
        while let Ok(_late) = self.answers.recv_timeout(END) {}
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
