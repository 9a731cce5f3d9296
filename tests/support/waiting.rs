//! Waiting for what is to happen, no longer than `PATIENCE` of whoever includes this.

use std::{future::Future, time::Duration};

use tokio::time::{sleep, timeout};

use super::PATIENCE;

/// Waits for an event; panics, naming it, when it does not come.
pub async fn soon<F: Future>(what: &str, event: F) -> F::Output {
    match timeout(PATIENCE, event).await {
        Ok(output) => output,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// Waits for something that nobody announces.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let polled = async {
        while !holds() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    soon(what, polled).await;
}
