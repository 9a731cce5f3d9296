//! Follows a configuration file.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Apply, Config, ConfigReader, ReloadError,
    follower::{Followed, Follower, Look},
    in_force::InForce,
    reader::absolute,
    reload::Reloader,
};
use tower_iroh_layers::ConfigError;

/// Follows a configuration file: its changes are put in force while the program runs.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("cluster.toml");
/// # std::fs::write(&path, "transport.mode = \"dual\"")?;
/// use tower_iroh::config::{Commit, Config, ConfigWatch, Followed, Next};
///
/// let config = Config::from_file(&path)?;
/// let followed = ConfigWatch::builder(&path, config).start(|next: &mut Next| {
///     let mode = next.config().mode();
///     Ok(Box::new(move || println!("mode {mode:?}")) as Commit)
/// })?;
/// let mut events = followed.events();
///
/// std::fs::write(&path, "transport.mode = \"grpc\"")?;
/// events.wait_for(|event| matches!(event, Followed::Reloaded(_))).await?;
/// assert_eq!(followed.current().mode(), tower_iroh::config::Mode::Grpc);
/// # Ok(())
/// # }
/// ```
///
/// **How.** The watch is on the folder, since editors and Kubernetes replace a file instead of writing to it; for a link, also on the folder of its target. A
/// change is read once the folder has been quiet for 100 ms. The file is also read every 5 s, for file systems that notify of nothing. The policy file that
/// `transport.authorization_file` names is re-read on every poll. It is applied once at the start, in case it changed after it was first read.
///
/// **What.** The text is read, checked and compared whole. [`Apply`] then prepares what is needed, and only after that anything changes. A file with a
/// mistake, an empty file and a missing file are errors, and leave what is in force unchanged.
///
/// **Reports.** Through [`events`](Self::events), as an event of `tracing` with the target `tower_iroh::config`, and in the metrics
/// `tower_iroh_config_reloads_total{outcome}` (`applied` or `refused`) and `tower_iroh_config_restart_pending`, the number of keys that wait for a restart.
///
/// Dropping it ends the watch; what is in force stays in force.
pub struct ConfigWatch {
    accepted: watch::Receiver<Arc<Config>>,
    events: watch::Receiver<Followed>,
    task: AbortHandle,
    /// The task applies nothing once this is gone.
    _claim: Arc<PathBuf>,
}

impl ConfigWatch {
    /// A watch of `path`. `config` is what is in force: it was read from the file at the start.
    pub fn builder(path: impl Into<PathBuf>, config: impl Into<Arc<Config>>) -> ConfigWatchBuilder {
        ConfigWatchBuilder {
            path: absolute(&path.into()),
            config: config.into(),
            reader: Config::reader(),
            poll_interval: Duration::from_secs(5),
            settle: Duration::from_millis(100),
        }
    }

    /// The last configuration that was accepted. Its keys that [need a restart](super::Reload::needs_restart) are not in force.
    pub fn current(&self) -> Arc<Config> {
        self.accepted.borrow().clone()
    }

    /// What becomes of the file. A receiver sees the latest event, and may miss earlier ones.
    pub fn events(&self) -> watch::Receiver<Followed> {
        self.events.clone()
    }
}

impl fmt::Debug for ConfigWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigWatch")
            .field("last", &*self.events.borrow())
            .finish_non_exhaustive()
    }
}

impl Drop for ConfigWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Settings of a [`ConfigWatch`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ConfigWatchBuilder {
    path: PathBuf,
    config: Arc<Config>,
    reader: ConfigReader,
    poll_interval: Duration,
    settle: Duration,
}

impl ConfigWatchBuilder {
    /// Reads with the program's own groups. Default: none.
    pub fn reader(mut self, reader: ConfigReader) -> Self {
        self.reader = reader;
        self
    }

    /// How often the file is read even if no change was notified. Default 5 s; at least 1 ms.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// How long the folder must be quiet after a change before the file is read. A folder that is never quiet delays that by at most ten times as long. Default
    /// 100 ms.
    pub fn settle(mut self, quiet: Duration) -> Self {
        self.settle = quiet;
        self
    }

    /// Follows the file with a task on the current runtime.
    ///
    /// # Errors
    /// [`ConfigError`] for a [poll interval](Self::poll_interval) below 1 ms, a [settle time](Self::settle) of zero, and either above 365 days.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(self, apply: impl Apply) -> Result<ConfigWatch, ConfigError> {
        let in_force = InForce::new(self.config.clone(), None);
        self.start_in(in_force, apply)
    }

    /// The same, beginning with what is in force already.
    pub(super) fn start_in(
        self,
        in_force: Arc<InForce>,
        apply: impl Apply,
    ) -> Result<ConfigWatch, ConfigError> {
        ConfigError::lasting("config_watch.poll_interval", self.poll_interval)?;
        if self.poll_interval < SHORTEST_POLL {
            let accepted =
                format!("at least {SHORTEST_POLL:?} is accepted: each poll reads the file");
            let value = format_args!("{:?}", self.poll_interval);
            return Err(ConfigError::new(
                "config_watch.poll_interval",
                value,
                accepted,
            ));
        }
        ConfigError::lasting("config_watch.settle", self.settle)?;
        let claim = in_force.claim(self.path.clone())?;
        let (events, followed) = watch::channel(Followed::default());
        let accepted = in_force.accepted.subscribe();
        let notified = Arc::new(Notify::new());
        let reloader = Reloader::new(self.reader, self.path.clone(), Box::new(apply));
        let claimed = Arc::downgrade(&claim);
        let follower = Follower::new(self.path, reloader, in_force, claimed, notified.clone());
        let (settle, poll) = (self.settle, self.poll_interval);
        let run = run(follower, events, notified, settle, poll);
        Ok(ConfigWatch {
            accepted,
            events: followed,
            task: tokio::spawn(run).abort_handle(),
            _claim: claim,
        })
    }
}

/// More often than this a poll would keep a processor busy.
const SHORTEST_POLL: Duration = Duration::from_millis(1);

async fn run(
    mut follower: Follower,
    events: watch::Sender<Followed>,
    notified: Arc<Notify>,
    settle: Duration,
    poll: Duration,
) {
    let mut look = Look::Polled;
    loop {
        // Reading files blocks, and so does asking the kernel to watch a folder.
        let looked = tokio::task::spawn_blocking(move || {
            let event = follower.look(look);
            (follower, event)
        });
        let Ok((back, event)) = looked.await else {
            tracing::error!(
                target: "tower_iroh::config",
                "applying a configuration panicked: the file is no longer followed; what was in force before stays"
            );
            return;
        };
        follower = back;
        if let Some(event) = event {
            report(follower.path(), &event);
            events.send_replace(event);
        }
        let wait = if follower.is_unsure() { settle } else { poll };
        look = match timeout(wait, settled(&notified, settle)).await {
            Ok(()) => Look::Notified,
            Err(_) => Look::Polled,
        };
    }
}

/// Logs and counts what became of the file.
fn report(path: &Path, event: &Followed) {
    let outcome = match event {
        Followed::Started => return,
        Followed::Reloaded(reload) => {
            tracing::info!(target: "tower_iroh::config", file = %path.display(), "configuration reloaded: {reload}");
            let pending = reload.needs_restart().len() as f64;
            metrics::gauge!("tower_iroh_config_restart_pending").set(pending);
            "applied"
        }
        Followed::Refused(error) => {
            let causes = causes(error);
            tracing::error!(target: "tower_iroh::config", file = %path.display(), "{causes}");
            "refused"
        }
    };
    metrics::counter!("tower_iroh_config_reloads_total", "outcome" => outcome).increment(1);
}

/// An error with its causes.
fn causes(error: &ReloadError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// Waits for a change, and then until there has been none for `quiet`, but at most ten times `quiet`.
async fn settled(notified: &Notify, quiet: Duration) {
    notified.notified().await;
    let latest = Instant::now() + quiet * 10;
    while Instant::now() < latest {
        let until = latest.min(Instant::now() + quiet);
        if timeout_at(until, notified.notified()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(100);

    /// Tells at these times, in milliseconds, and returns after how many the file would be read.
    async fn read_after(times: &[u64]) -> u64 {
        let told = Arc::new(Notify::new());
        let begun = Instant::now();
        let telling = async {
            for time in times {
                tokio::time::sleep_until(begun + Duration::from_millis(*time)).await;
                told.notify_one();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = settled(&told, QUIET) => {}
            () = telling => {}
        }
        begun.elapsed().as_millis() as u64
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_once_it_is_quiet() {
        assert_eq!(read_after(&[50]).await, 150);
        assert_eq!(read_after(&[0, 60, 120]).await, 220);
        assert_eq!(read_after(&[0, 150]).await, 100);
        let restless: Vec<_> = (0..100).map(|n| n * 50).collect();
        assert_eq!(read_after(&restless).await, 1000, "and not never");
    }
}
