//! Ctrl-C ends a verb that waits.

use std::time::Duration;

use crate::failure::Failure;

/// What a shell expects of a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Does the work until Ctrl-C. The work is a task of its own, because writing to a full pipe blocks it.
pub(crate) async fn interruptible<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    let mut work = tokio::spawn(work);
    tokio::select! {
        ended = &mut work => ended.unwrap_or_else(|error| Err(Failure::failed(error))),
        () = interrupted() => {
            // Dropping the call resets it at the peer.
            work.abort();
            let _ = tokio::time::timeout(Duration::from_secs(1), work).await;
            Err(Failure::Told(INTERRUPTED))
        }
    }
}

/// Waits for Ctrl-C; for ever where the system has no such thing.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
