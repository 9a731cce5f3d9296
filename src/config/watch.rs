//! A file that is followed.

use std::{
    fmt, io,
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
    Apply, Config, ConfigReader, LoadError, Reload, ReloadError, file_watcher::FileWatcher,
    reader::text_of, reload::Reloader,
};
use tower_iroh_layers::ConfigError;

/// A configuration file that is followed: what changes in it is put in force while the program runs.
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
/// **How.** The folder is watched, since editors and Kubernetes replace a file and do not write to it; where the file is a link, the folder that it leads to
/// too. A change is read once nothing has happened for 100 ms. The file is also looked at every 5 s, for file systems that tell nobody. The policy that
/// `transport.authorization_file` names is followed with it, as far as that it is looked at as often; and as it may have changed since it was read, it is put in
/// force once more at the start.
///
/// **What.** The text is read, checked and compared whole; then [`Apply`] makes ready what is needed, and only then anything changes. A file with a mistake,
/// an empty one and one that is gone leave in force what is, and the error is told.
///
/// **Telling.** By [`events`](Self::events), by an event of `tracing` with the target `tower_iroh::config`, and by the metrics
/// `tower_iroh_config_reloads_total{outcome}` (`applied` or `refused`) and `tower_iroh_config_restart_pending`, the number of keys that wait for a restart.
///
/// Dropping it ends the watch; what is in force stays.
pub struct ConfigWatch {
    state: watch::Receiver<State>,
    events: watch::Receiver<Followed>,
    task: AbortHandle,
}

type State = Arc<Config>;

/// What became of the file last.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Followed {
    /// It says what is in force since the start.
    #[default]
    Started,
    /// It was reloaded.
    Reloaded(Arc<Reload>),
    /// It was not: what was in force still is.
    Refused(Arc<ReloadError>),
}

impl ConfigWatch {
    /// Begins to follow `path`, with what is in force: what was read from it at the start.
    pub fn builder(path: impl Into<PathBuf>, config: impl Into<Arc<Config>>) -> ConfigWatchBuilder {
        ConfigWatchBuilder {
            path: path.into(),
            config: config.into(),
            reader: Config::reader(),
            poll_interval: Duration::from_secs(5),
            settle: Duration::from_millis(100),
            policy: None,
        }
    }

    /// The last configuration that was accepted. Of it, what [needs a restart](Reload::needs_restart) is not in force.
    pub fn current(&self) -> Arc<Config> {
        self.state.borrow().clone()
    }

    /// What becomes of the file. A receiver sees the latest, and may miss what came before.
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
    policy: Option<String>,
}

impl ConfigWatchBuilder {
    /// The text of the policy that is in force. Where it is not known the policy is put in force once more: it may have changed since it was read.
    #[cfg(feature = "authorize")]
    pub(crate) fn policy(mut self, text: Option<String>) -> Self {
        self.policy = text;
        self
    }

    /// Reads with a program's own groups. Default: without any.
    pub fn reader(mut self, reader: ConfigReader) -> Self {
        self.reader = reader;
        self
    }

    /// How often the file is looked at though nobody told of a change. Default 5 s.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// For how long nothing must happen to the folder before the file is read; ten times that is the longest that it waits. Default 100 ms.
    pub fn settle(mut self, quiet: Duration) -> Self {
        self.settle = quiet;
        self
    }

    /// Follows the file, with a task on the current runtime.
    ///
    /// # Errors
    /// [`ConfigError`] for an interval of nothing.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(self, apply: impl Apply) -> Result<ConfigWatch, ConfigError> {
        ConfigError::lasting("config_watch.poll_interval", self.poll_interval)?;
        ConfigError::lasting("config_watch.settle", self.settle)?;
        let (state, current) = watch::channel(self.config.clone());
        let (events, followed) = watch::channel(Followed::default());
        let told = Arc::new(Notify::new());
        let reloader = Reloader::new(self.reader, self.path.clone(), self.config, Box::new(apply));
        let follower = Follower {
            reloader,
            file_watcher: FileWatcher::new(told.clone()),
            path: self.path,
            policy: None,
            policy_in_force: self.policy.map(Ok),
            last: None,
            unsure: None,
        };
        let (settle, poll) = (self.settle, self.poll_interval);
        let run = run(follower, state, events, told, settle, poll);
        Ok(ConfigWatch {
            state: current,
            events: followed,
            task: tokio::spawn(run).abort_handle(),
        })
    }
}

async fn run(
    follower: Follower,
    state: watch::Sender<State>,
    events: watch::Sender<Followed>,
    told: Arc<Notify>,
    settle: Duration,
    poll: Duration,
) {
    let mut follower = follower;
    let mut how = How::Looking;
    loop {
        // Reading blocks, and so does asking the kernel to watch.
        let look = tokio::task::spawn_blocking(move || {
            let event = follower.look(how);
            (follower, event)
        });
        // It ends early if somebody's `Apply` panicked; what is in force stays, and nobody follows the file any more.
        let Ok((back, event)) = look.await else {
            tracing::error!(target: "tower_iroh::config", "applying a configuration panicked: the file is not followed any more");
            return;
        };
        follower = back;
        if let Some(event) = event {
            state.send_if_modified(|state| {
                let current = follower.reloader.current();
                let is_other = !Arc::ptr_eq(state, current);
                if is_other {
                    state.clone_from(current);
                }
                is_other
            });
            tell(&follower.path, &event);
            events.send_replace(event);
        }
        let wait = if follower.unsure.is_some() {
            settle
        } else {
            poll
        };
        how = match timeout(wait, settled(&told, settle)).await {
            Ok(()) => How::Told,
            Err(_) => How::Looking,
        };
    }
}

/// Why one looks at the file.
#[derive(Clone, Copy, PartialEq)]
enum How {
    /// Something has happened to its folder, and nothing any more for a while.
    Told,
    /// One looks from time to time.
    Looking,
}

fn tell(path: &Path, event: &Followed) {
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

/// Waits for something to happen, and then until nothing has for `quiet`, or ten times that is over.
async fn settled(told: &Notify, quiet: Duration) {
    told.notified().await;
    let latest = Instant::now() + quiet * 10;
    while Instant::now() < latest {
        let until = latest.min(Instant::now() + quiet);
        if timeout_at(until, told.notified()).await.is_err() {
            return;
        }
    }
}

/// What one saw of the files: their texts, or why there are none.
#[derive(PartialEq)]
struct Snapshot {
    text: Result<String, io::ErrorKind>,
    policy: Option<Result<String, io::ErrorKind>>,
}

struct Follower {
    reloader: Reloader,
    file_watcher: FileWatcher,
    path: PathBuf,
    /// The policy that the text names which was taken last.
    policy: Option<PathBuf>,
    /// The text of the policy that is in force, as far as that is known: what was seen and refused is not.
    policy_in_force: Option<Result<String, io::ErrorKind>>,
    /// What was taken last, and whether it was refused.
    last: Option<(Snapshot, bool)>,
    /// What was found by looking, and may be half written.
    unsure: Option<Snapshot>,
}

impl Follower {
    /// Looks at the file; `None` where there is nothing new to tell.
    fn look(&mut self, how: How) -> Option<Followed> {
        self.file_watcher.watch(&self.path);
        let kind = |error: io::Error| error.kind();
        let (text, read) = match text_of(&self.path) {
            Ok(text) => {
                let read = self.reloader.read(&text);
                (Ok(text), read)
            }
            Err(source) => {
                let (path, kind) = (self.path.clone(), source.kind());
                (Err(kind), Err(LoadError::Read { path, source }.into()))
            }
        };
        let policy = match &read {
            Ok(config) => config.authorization_file().map(Path::to_owned),
            Err(_) => self.policy.clone(),
        };
        // Before it is applied: what is written to the policy from now on is found by the next look.
        let seen = Snapshot {
            text,
            policy: policy
                .as_deref()
                .map(|policy| text_of(policy).map_err(kind)),
        };
        let was_refused = match &self.last {
            Some((last, _)) if *last == seen => {
                self.unsure = None;
                return None;
            }
            Some((_, was_refused)) => *was_refused,
            None => false,
        };
        // Not with the one seen last: that may have been refused, or have been there beside a mistake in the configuration.
        let other_policy = seen.policy != self.policy_in_force;
        if how == How::Looking && self.unsure.as_ref() != Some(&seen) {
            self.unsure = Some(seen);
            return None;
        }
        self.unsure = None;
        if self.last.is_some() && how == How::Looking {
            self.file_watcher.open_again();
        }
        let taken = read.and_then(|config| self.reloader.take(config, other_policy));
        if taken.is_ok() {
            self.policy_in_force.clone_from(&seen.policy);
        }
        self.policy = policy;
        self.last = Some((seen, taken.is_err()));
        match taken {
            Ok(reload) if reload.is_empty() && !was_refused => None,
            Ok(reload) => Some(Followed::Reloaded(Arc::new(reload))),
            Err(error) => Some(Followed::Refused(Arc::new(error))),
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
