use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use tower_iroh::{
    config::{Commit, Config, ConfigWatch, ConfigWatchBuilder, Followed, Mode, Next, Reload},
    layers::BoxError,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than any test: what is seen then was told by the kernel.
const NEVER: Duration = Duration::from_secs(3600);

/// A file that is followed, and the modes that were put in force.
struct World {
    folder: tempfile::TempDir,
    path: PathBuf,
    modes: Arc<Mutex<Vec<Mode>>>,
    refuses: Arc<AtomicBool>,
    watch: Option<ConfigWatch>,
    events: watch::Receiver<Followed>,
}

impl World {
    /// Follows a file that says `dual`.
    fn new(set: impl FnOnce(ConfigWatchBuilder) -> ConfigWatchBuilder) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cluster.toml");
        fs::write(&path, mode("dual")).expect("written");
        Self::following(folder, path, set)
    }

    fn following(
        folder: tempfile::TempDir,
        path: PathBuf,
        set: impl FnOnce(ConfigWatchBuilder) -> ConfigWatchBuilder,
    ) -> Self {
        let (modes, refuses) = (
            Arc::<Mutex<Vec<Mode>>>::default(),
            Arc::new(AtomicBool::new(false)),
        );
        let (sink, refused) = (modes.clone(), refuses.clone());
        let apply = move |next: &mut Next| -> Result<Commit, BoxError> {
            if refused.load(Ordering::SeqCst) {
                return Err("not now".into());
            }
            let (mode, sink) = (next.config().mode(), sink.clone());
            Ok(Box::new(move || sink.lock().expect("no panic").push(mode)))
        };
        let config = Config::from_file(&path).expect("valid");
        let builder = ConfigWatch::builder(&path, config).settle(Duration::from_millis(20));
        let watch = set(builder).start(apply).expect("valid");
        Self {
            folder,
            path,
            modes,
            refuses,
            events: watch.events(),
            watch: Some(watch),
        }
    }

    fn write(&self, text: &str) {
        fs::write(&self.path, text).expect("written");
    }

    /// As editors and package managers do it.
    fn replace(&self, text: &str) {
        let beside = self.folder.path().join(".cluster.toml.swp");
        fs::write(&beside, text).expect("written");
        fs::rename(&beside, &self.path).expect("replaced");
    }

    async fn reloaded(&mut self) -> Arc<Reload> {
        self.event(|event| match event {
            Followed::Reloaded(reload) => Some(reload.clone()),
            _ => None,
        })
        .await
    }

    async fn refused(&mut self) -> String {
        self.event(|event| match event {
            Followed::Refused(error) => {
                let source = std::error::Error::source(&**error);
                Some(format!(
                    "{error}: {}",
                    source.map(ToString::to_string).unwrap_or_default()
                ))
            }
            _ => None,
        })
        .await
    }

    /// The next event that is one of these.
    async fn event<T>(&mut self, pick: impl Fn(&Followed) -> Option<T>) -> T {
        timeout(PATIENCE, async {
            loop {
                self.events.changed().await.expect("it is followed");
                if let Some(found) = pick(&self.events.borrow_and_update()) {
                    return found;
                }
            }
        })
        .await
        .expect("in time")
    }

    fn current(&self) -> Mode {
        self.watch.as_ref().expect("followed").current().mode()
    }

    fn modes(&self) -> Vec<Mode> {
        self.modes.lock().expect("no panic").clone()
    }
}

fn mode(mode: &str) -> String {
    format!("transport.mode = \"{mode}\"\n")
}

#[tokio::test]
async fn a_change_is_applied_when_the_kernel_tells_of_it() {
    let mut world = World::new(|builder| builder.poll_interval(NEVER));
    // The watch begins with the first look; until then nobody tells. A file that was changed before is found by that look.
    world.write(&mode("grpc"));
    assert_eq!(world.reloaded().await.applied()[0].key(), "transport.mode");
    assert_eq!(
        (world.current(), world.modes()),
        (Mode::Grpc, vec![Mode::Grpc])
    );
    for (text, expected) in [
        ("iroh", Mode::Iroh),
        ("grpc", Mode::Grpc),
        ("dual", Mode::Dual),
    ] {
        world.replace(&mode(text));
        world.reloaded().await;
        assert_eq!(world.current(), expected);
    }
    world.write(&mode("grpc"));
    world.reloaded().await;
    assert_eq!(
        world.modes(),
        [Mode::Grpc, Mode::Iroh, Mode::Grpc, Mode::Dual, Mode::Grpc]
    );
}

/// A link to a link: where the second one is nobody watches, as on a file system that tells nobody.
#[cfg(unix)]
#[tokio::test]
async fn a_change_is_found_where_nobody_tells() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().to_owned();
    let publish = |name: &str, text: &str| {
        fs::create_dir(root.join(name)).expect("a folder");
        fs::write(root.join(name).join("real.toml"), text).expect("written");
        symlink(root.join(name).join("real.toml"), root.join("middle/next")).expect("a link");
        fs::rename(root.join("middle/next"), root.join("middle/link")).expect("exchanged");
    };
    fs::create_dir(root.join("middle")).expect("a folder");
    fs::create_dir(root.join("etc")).expect("a folder");
    publish("one", &mode("dual"));
    let path = root.join("etc/cluster.toml");
    symlink(root.join("middle/link"), &path).expect("a link");
    let mut world = World::following(folder, path, |builder| {
        builder.poll_interval(Duration::from_millis(30))
    });
    for (name, text, expected) in [("two", "grpc", Mode::Grpc), ("three", "dual", Mode::Dual)] {
        publish(name, &mode(text));
        world.reloaded().await;
        assert_eq!(world.current(), expected);
    }
}

#[tokio::test]
async fn a_file_with_a_mistake_changes_nothing() {
    let mut world = World::new(|builder| builder.poll_interval(NEVER));
    world.write("[transport]\nmode = \"grcp\"\n");
    let told = world.refused().await;
    assert!(
        told.contains("cluster.toml:2:8: transport.mode = \"grcp\""),
        "{told}"
    );
    assert!(told.contains("did you mean \"grpc\"?"), "{told}");
    assert_eq!((world.current(), world.modes()), (Mode::Dual, vec![]));

    world.write("");
    let told = world.refused().await;
    assert!(told.contains("it is empty"), "{told}");

    fs::remove_file(&world.path).expect("removed");
    let told = world.refused().await;
    assert!(told.contains("cannot read"), "{told}");
    assert_eq!((world.current(), world.modes()), (Mode::Dual, vec![]));

    // Back as it was: nothing to apply, and the error is over.
    world.write(&mode("dual"));
    assert!(world.reloaded().await.is_empty());
    world.write(&mode("grpc"));
    world.reloaded().await;
    assert_eq!(world.modes(), [Mode::Grpc]);
}

#[tokio::test]
async fn what_cannot_be_applied_is_not_in_force_and_can_be_tried_again() {
    let mut world = World::new(|builder| builder.poll_interval(NEVER));
    world.refuses.store(true, Ordering::SeqCst);
    world.write(&mode("grpc"));
    let told = world.refused().await;
    assert!(told.contains("not applied: not now"), "{told}");
    assert_eq!((world.current(), world.modes()), (Mode::Dual, vec![]));
    world.refuses.store(false, Ordering::SeqCst);
    world.write(&format!("{}# again\n", mode("grpc")));
    world.reloaded().await;
    assert_eq!(world.modes(), [Mode::Grpc]);
}

#[tokio::test]
async fn what_needs_a_restart_is_told_and_not_applied() {
    let mut world = World::new(|builder| builder.poll_interval(NEVER));
    world.write("transport.mode = \"grpc\"\ncluster.peer.max_connections = 3\n");
    let reload = world.reloaded().await;
    let keys = |changes: &[tower_iroh::config::Change]| {
        changes
            .iter()
            .map(|it| it.key().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(reload.applied()), ["transport.mode"]);
    assert_eq!(
        keys(reload.needs_restart()),
        ["cluster.peer.max_connections"]
    );
    assert_eq!(
        reload.needs_restart()[0].to_string(),
        "cluster.peer.max_connections: 100 -> 3"
    );
}

/// Kubernetes mounts a ConfigMap as links: `cluster.toml -> ..data/cluster.toml`, `..data -> ..2026_1`, and an update exchanges `..data` by a rename.
#[cfg(unix)]
#[tokio::test]
async fn a_config_map_is_followed() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().to_owned();
    let publish = |name: &str, text: &str| {
        fs::create_dir(root.join(name)).expect("a folder");
        fs::write(root.join(name).join("cluster.toml"), text).expect("written");
        symlink(name, root.join("..data_tmp")).expect("a link");
        fs::rename(root.join("..data_tmp"), root.join("..data")).expect("exchanged");
    };
    publish("..2026_1", &mode("dual"));
    symlink("..data/cluster.toml", root.join("cluster.toml")).expect("a link");
    let mut world = World::following(folder, root.join("cluster.toml"), |builder| {
        builder.poll_interval(NEVER)
    });
    for (name, text, expected) in [
        ("..2026_2", "grpc", Mode::Grpc),
        ("..2026_3", "dual", Mode::Dual),
    ] {
        publish(name, &mode(text));
        world.reloaded().await;
        assert_eq!(world.current(), expected);
    }
}

/// A link to a file elsewhere: what happens is in the other folder.
#[cfg(unix)]
#[tokio::test]
async fn what_a_link_leads_to_is_followed() {
    let (folder, elsewhere) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let target = elsewhere.path().join("real.toml");
    fs::write(&target, mode("dual")).expect("written");
    let path = folder.path().join("cluster.toml");
    std::os::unix::fs::symlink(&target, &path).expect("a link");
    let mut world = World::following(folder, path, |builder| builder.poll_interval(NEVER));
    for text in ["grpc", "dual"] {
        fs::write(&target, mode(text)).expect("written");
        world.reloaded().await;
    }
    assert_eq!(world.modes(), [Mode::Grpc, Mode::Dual]);
}

#[tokio::test]
async fn the_policy_is_followed_too() {
    let mut world = World::new(|builder| builder.poll_interval(Duration::from_millis(30)));
    let policy = world.folder.path().join("policy.toml");
    fs::write(&policy, "# one").expect("written");
    world.write("transport.authorization_file = \"policy.toml\"\n");
    world.reloaded().await;
    fs::write(&policy, "# two").expect("written");
    let reload = world.reloaded().await;
    assert_eq!(reload.applied()[0].key(), "transport.authorization_file");
}

#[tokio::test]
async fn dropped_it_ends() {
    let mut world = World::new(|builder| builder.poll_interval(Duration::from_millis(10)));
    world.write(&mode("grpc"));
    world.reloaded().await;
    drop(world.watch.take());
    let ended = timeout(PATIENCE, async {
        while world.events.changed().await.is_ok() {}
    });
    ended.await.expect("its task is gone");
    assert_eq!(world.modes(), [Mode::Grpc]);
}

#[tokio::test]
async fn an_interval_of_nothing_is_refused() {
    let start = |builder: ConfigWatchBuilder| {
        let apply = |_: &mut Next| -> Result<Commit, BoxError> { Ok(Box::new(|| {})) };
        builder.start(apply).expect_err("refused").field()
    };
    let new = || ConfigWatch::builder(Path::new("cluster.toml"), Config::default());
    assert_eq!(start(new().settle(Duration::ZERO)), "config_watch.settle");
    assert_eq!(
        start(new().poll_interval(Duration::ZERO)),
        "config_watch.poll_interval"
    );
}

/// A writer that is caught in the middle, again and again: never half a file, and in the end the last one.
#[tokio::test]
async fn a_writer_in_a_hurry_is_never_seen_halfway() {
    let mut world = World::new(|builder| builder.poll_interval(Duration::from_millis(5)));
    let path = world.path.clone();
    let writer = tokio::task::spawn_blocking(move || {
        for round in 0..200 {
            let text = format!(
                "transport.mode = \"grpc\"\ncluster.peer.max_connections = {}\n",
                round + 1
            );
            // Emptied, then written in two halves.
            fs::write(&path, "").expect("emptied");
            fs::write(&path, &text[..20]).expect("half of it");
            fs::write(&path, &text).expect("all of it");
        }
    });
    writer.await.expect("it wrote");
    timeout(PATIENCE, async {
        loop {
            if let Followed::Reloaded(reload) = &*world.events.borrow_and_update()
                && reload
                    .needs_restart()
                    .iter()
                    .any(|change| change.to() == "200")
            {
                return;
            }
            world.events.changed().await.expect("it is followed");
        }
    })
    .await
    .expect("in time");
    let modes = world.modes();
    assert!(modes.iter().all(|mode| *mode == Mode::Grpc), "{modes:?}");
    assert_eq!(world.current(), Mode::Grpc);
}
