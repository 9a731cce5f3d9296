//! The signals that end the program.

use std::time::Duration;

use crate::failure::Failure;

/// What a shell expects of a program that SIGINT ended.
pub(crate) const INTERRUPTED: u8 = 130;

/// Serves, which ends some time after the first Ctrl-C or SIGTERM. The second one ends it at once, whatever it still waits for.
pub(crate) async fn until_the_second(
    serving: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let second = async {
        signalled().await;
        signalled().await;
    };
    tokio::select! {
        ended = serving => ended,
        () = second => Err(Failure::Told(INTERRUPTED)),
    }
}

/// Does the work until Ctrl-C or SIGTERM. The work is a task of its own, because writing to a full pipe blocks it.
pub(crate) async fn interruptible<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    let mut work = tokio::spawn(work);
    tokio::select! {
        ended = &mut work => ended.unwrap_or_else(|error| Err(Failure::failed(error))),
        () = signalled() => {
            // Dropping the call resets it at the peer.
            work.abort();
            let _ = tokio::time::timeout(Duration::from_secs(1), work).await;
            Err(Failure::Told(INTERRUPTED))
        }
    }
}

/// Ends with the next Ctrl-C or SIGTERM.
#[cfg(unix)]
pub(crate) async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};

    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                () = ctrl_c() => {}
            }
        }
        Err(_) => ctrl_c().await,
    }
}

#[cfg(not(unix))]
pub(crate) async fn signalled() {
    ctrl_c().await;
}

async fn ctrl_c() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without a handler the system's default ends the program, which is what the signal is for.
        std::future::pending().await
    }
}
