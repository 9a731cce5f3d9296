//! The signals that end the program.

/// Ends with Ctrl-C or SIGTERM. The second signal ends the program at once, whatever it still waits for.
pub(crate) async fn interrupted() {
    signalled().await;
    tokio::spawn(async {
        signalled().await;
        // As a shell reports a program that SIGINT has ended.
        std::process::exit(130);
    });
}

#[cfg(unix)]
async fn signalled() {
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
async fn signalled() {
    ctrl_c().await;
}

async fn ctrl_c() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without a handler the system's default ends the program, which is what the signal is for.
        std::future::pending().await
    }
}
