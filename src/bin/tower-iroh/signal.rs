//! The signals that end the program.

use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::failure::Failure;

/// What a shell expects of a program that SIGINT ended.
pub(crate) const INTERRUPTED: u8 = 130;

/// Serves, which ends some time after the first of the signals that `first` awaits. The second one ends it at once, whatever it still waits for.
pub(crate) async fn until_the_second(
    first: impl Future<Output = ()>,
    serving: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let second = async {
        first.await;
        listen().await;
    };
    tokio::select! {
        ended = serving => ended,
        () = second => Err(Failure::Exit(INTERRUPTED)),
    }
}

/// Does the work until Ctrl-C or SIGTERM. The work is a task of its own, because writing to a full pipe blocks it.
pub(crate) async fn interruptible<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    let interrupted = listen();
    // Also where a deadline drops this future.
    let mut work = AbortOnDropHandle::new(tokio::spawn(work));
    tokio::select! {
        ended = &mut work => ended.unwrap_or_else(|error| Err(Failure::failed(error))),
        () = interrupted => {
            // Dropping the call resets it at the peer.
            work.abort();
            let _ = tokio::time::timeout(Duration::from_secs(1), work).await;
            Err(Failure::Exit(INTERRUPTED))
        }
    }
}

/// Listens from now on for Ctrl-C and SIGTERM; the future ends with the first that comes. A server listens before it says that it is there, because until then a
/// signal ends the program at once.
#[cfg(unix)]
pub(crate) fn listen() -> impl Future<Output = ()> + Send + 'static {
    use tokio::signal::unix::{Signal, SignalKind, signal};

    // Without a handler the system's default ends the program, which is what the signal is for.
    async fn next(signal: &mut Option<Signal>) {
        match signal {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
    let mut interrupt = signal(SignalKind::interrupt()).ok();
    let mut terminate = signal(SignalKind::terminate()).ok();
    async move {
        tokio::select! {
            () = next(&mut interrupt) => {}
            () = next(&mut terminate) => {}
        }
    }
}

#[cfg(not(unix))]
pub(crate) fn listen() -> impl Future<Output = ()> + Send + 'static {
    async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
