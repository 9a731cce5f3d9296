//! Notifies of changes to a file, where the kernel can.

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

/// Watches the folders in which a file can be replaced. Where the system cannot watch, polling has to do.
pub(super) struct FileWatcher {
    notified: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    has_failed: bool,
}

impl FileWatcher {
    pub(super) fn new(notified: Arc<Notify>) -> Self {
        Self {
            notified,
            watcher: None,
            folders: BTreeSet::new(),
            has_failed: false,
        }
    }

    /// Watches the folder of the file and, where the file is a link, the folder of its target. It blocks for a moment.
    pub(super) fn watch(&mut self, path: &Path) {
        let folders = folders(path);
        if self.watcher.is_none() {
            self.open();
        }
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        for gone in self.folders.difference(&folders) {
            // The folder may be gone from the disk as well.
            let _ = watcher.unwatch(gone);
        }
        self.folders.retain(|folder| folders.contains(folder));
        for folder in folders {
            if self.folders.contains(&folder) {
                continue;
            }
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.folders.insert(folder)),
                Err(error) => warn_once(&mut self.has_failed, &error),
            }
        }
    }

    /// Begins anew after a change that was not notified: the folder may have been replaced.
    pub(super) fn open_again(&mut self) {
        self.watcher = None;
        self.folders.clear();
    }

    fn open(&mut self) {
        let notified = self.notified.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the file is notified as well, and the follower reads it.
            let is_change = event.as_ref().is_ok_and(|event| match event.kind {
                EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
                _ => true,
            });
            if is_change || event.is_err() {
                notified.notify_one();
            }
        });
        match watcher {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => warn_once(&mut self.has_failed, &error),
        }
    }
}

/// Logs a failure once: watching is tried again with each look.
fn warn_once(has_failed: &mut bool, error: &notify::Error) {
    if !std::mem::replace(has_failed, true) {
        tracing::warn!(target: "tower_iroh::config", "the file cannot be watched, so changes are found by polling: {error}");
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
