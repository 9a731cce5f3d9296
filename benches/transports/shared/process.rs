//! An arm's process: slices on standard input, what they measured on standard output.

use std::{
    future::Future,
    io::{self, BufRead, Write},
    process::ExitCode,
};

use super::{
    Fault,
    harness::Harness,
    transport::Arm,
    wire::{Answer, Command, Hello},
    with_causes,
};

/// Starts an arm and serves slices until standard input ends.
///
/// The runtime is the same for everybody: multi-threaded, default number of workers. Between two slices
/// this thread waits in a read and the workers are parked, so a process whose turn it isn't costs nothing.
pub fn run<A: Arm>(arm: impl Future<Output = Result<A, Fault>>) -> ExitCode {
    match serve(arm) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If nobody listens any more the exit code has to do.
            let _ = say(&Answer::Failed(with_causes(&*error)));
            ExitCode::FAILURE
        }
    }
}

fn serve<A: Arm>(arm: impl Future<Output = Result<A, Fault>>) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let arm = runtime.block_on(arm)?;
    say(&Answer::Ready(Hello {
        workers: runtime.metrics().num_workers(),
        notes: arm.notes(),
    }))?;
    let mut harness = Harness::new(arm);
    for line in io::stdin().lock().lines() {
        let command: Command = serde_json::from_str(&line?)?;
        say(&match runtime.block_on(harness.slice(&command)) {
            Ok(slice) => Answer::Done(slice),
            Err(error) => Answer::Failed(with_causes(&*error)),
        })?;
    }
    // Not a graceful end: the bench is done with this process, and what it measured has been said.
    runtime.shutdown_background();
    Ok(())
}

fn say(answer: &Answer) -> Result<(), Fault> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
