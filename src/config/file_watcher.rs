//! What tells of changes to a file: the kernel, where it does.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::Notify;

/// Watches the folders in which a file can be replaced. Where the system watches nothing, somebody else has to look.
pub(super) struct FileWatcher {
    told: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    has_failed: bool,
}

impl FileWatcher {
    pub(super) fn new(told: Arc<Notify>) -> Self {
        Self {
            told,
            watcher: None,
            folders: BTreeSet::new(),
            has_failed: false,
        }
    }

    /// Sees to it that the folders of the file and, where it is a link, of what it leads to are watched. It blocks for a moment.
    pub(super) fn watch(&mut self, path: &Path) {
        let folders = folders(path);
        if self.watcher.is_none() {
            self.open();
        }
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        for gone in self.folders.difference(&folders) {
            // It may be gone from the disk as well.
            let _ = watcher.unwatch(gone);
        }
        self.folders.retain(|folder| folders.contains(folder));
        for folder in folders {
            if self.folders.contains(&folder) {
                continue;
            }
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.folders.insert(folder)),
                Err(error) => tell(&mut self.has_failed, &error),
            }
        }
    }

    /// Begins anew: a change was there that nobody told of, as after a folder was replaced.
    pub(super) fn open_again(&mut self) {
        self.watcher = None;
        self.folders.clear();
    }

    fn open(&mut self) {
        let told = self.told.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Whoever reads the file is told of as well, and we do.
            let is_change = event.as_ref().is_ok_and(|event| match event.kind {
                EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
                _ => true,
            });
            if is_change || event.is_err() {
                told.notify_one();
            }
        });
        match watcher {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => tell(&mut self.has_failed, &error),
        }
    }
}

/// Once is enough: it is tried again with each look.
fn tell(has_failed: &mut bool, error: &notify::Error) {
    if !std::mem::replace(has_failed, true) {
        tracing::warn!(target: "tower_iroh::config", "changes to the file are seen by looking, for they cannot be watched: {error}");
    }
}

fn folders(path: &Path) -> BTreeSet<PathBuf> {
    let folder = |path: &Path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let target = path.canonicalize().ok();
    let mut folders = BTreeSet::from([folder(path)]);
    folders.extend(target.as_deref().map(folder));
    folders
}
