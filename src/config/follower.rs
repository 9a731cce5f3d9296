//! One look at a followed file: read it, compare it, put it in force.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use tokio::sync::Notify;

use super::{
    LoadError, Reload, ReloadError,
    file_watcher::FileWatcher,
    in_force::InForce,
    reader::text_of,
    reload::{PolicyText, Reloader},
};
use crate::lock::lock;

/// The last thing that became of a followed file.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Followed {
    /// Nothing: the file says what is in force since the watch began.
    #[default]
    Started,
    /// It was reloaded.
    Reloaded(Arc<Reload>),
    /// It was refused. What was in force before stays in force.
    Refused(Arc<ReloadError>),
}

/// Why the file is looked at.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Look {
    /// Its folder changed, and has been quiet since.
    Notified,
    /// The poll interval is over.
    Polled,
}

/// The texts of both files, or why they cannot be read.
#[derive(PartialEq)]
struct Snapshot {
    text: Result<String, io::ErrorKind>,
    policy: Option<PolicyText>,
}

pub(super) struct Follower {
    path: PathBuf,
    reloader: Reloader,
    in_force: Arc<InForce>,
    /// Gone once the watch is dropped: from then on nothing is put in force.
    claim: Weak<PathBuf>,
    file_watcher: FileWatcher,
    /// The policy file that the last readable text names.
    policy: Option<PathBuf>,
    /// The last snapshot that was taken, and whether it was refused.
    last: Option<(Snapshot, bool)>,
    /// A snapshot that a poll found: it may be half written, and is taken once the next look finds the same.
    unsure: Option<Snapshot>,
}

impl Follower {
    pub(super) fn new(
        path: PathBuf,
        reloader: Reloader,
        in_force: Arc<InForce>,
        claim: Weak<PathBuf>,
        notified: Arc<Notify>,
    ) -> Self {
        Self {
            path,
            reloader,
            in_force,
            claim,
            file_watcher: FileWatcher::new(notified),
            policy: None,
            last: None,
            unsure: None,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the next look should come soon.
    pub(super) fn is_unsure(&self) -> bool {
        self.unsure.is_some()
    }

    /// Looks at the file; `None` where there is nothing new to report. It blocks while it reads.
    pub(super) fn look(&mut self, look: Look) -> Option<Followed> {
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
        // Read before it is applied, so that the next look finds whatever is written to the policy from now on.
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
        if look == Look::Polled && self.unsure.as_ref() != Some(&seen) {
            self.unsure = Some(seen);
            return None;
        }
        self.unsure = None;
        if self.last.is_some() && look == Look::Polled {
            self.file_watcher.open_again();
        }
        let taken = {
            let mut state = lock(&self.in_force.state);
            // The next watch may have begun: what it finds later must not be overwritten with what this one read before.
            if self.claim.strong_count() == 0 {
                return None;
            }
            let taken =
                read.and_then(|config| self.reloader.take(&mut state, config, seen.policy.clone()));
            self.in_force.accepted.send_if_modified(|accepted| {
                let is_new = !Arc::ptr_eq(accepted, &state.accepted);
                if is_new {
                    accepted.clone_from(&state.accepted);
                }
                is_new
            });
            taken
        };
        self.policy = policy;
        self.last = Some((seen, taken.is_err()));
        match taken {
            Ok(reload) if reload.is_empty() && !was_refused => None,
            Ok(reload) => Some(Followed::Reloaded(Arc::new(reload))),
            Err(error) => Some(Followed::Refused(Arc::new(error))),
        }
    }
}
