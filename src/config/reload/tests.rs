use std::sync::Mutex;

use super::{super::Mode, *};

type Seen = Arc<Mutex<Vec<Mode>>>;

/// A reloader and what it has put in force.
struct World {
    reloader: Reloader,
    state: State,
}

impl World {
    fn current(&self) -> &Arc<Config> {
        &self.state.accepted
    }
}

/// A reloader whose commits write down the mode; a configuration of mode "iroh" is refused.
fn reloader() -> (World, Seen) {
    let seen = Seen::default();
    let sink = seen.clone();
    let apply = move |next: &mut Next| -> Result<Commit, BoxError> {
        if next.config().mode() == Mode::Iroh {
            return Err("no iroh here".into());
        }
        next.needs_restart("transport.iroh.enabled");
        let (mode, sink) = (next.config().mode(), sink.clone());
        Ok(Box::new(move || sink.lock().expect("no panic").push(mode)))
    };
    let path = PathBuf::from("cluster.toml");
    let world = World {
        reloader: Reloader::new(Config::reader(), path, Box::new(apply)),
        state: State::new(Arc::new(Config::default()), None),
    };
    (world, seen)
}

/// Reloads; `policy` is whether the policy has another text than the last time.
fn take(world: &mut World, text: &str, policy: bool) -> Result<Reload, ReloadError> {
    let World { reloader, state } = world;
    let new = reloader.read(text)?;
    let before = state.policy.clone();
    let text = match policy {
        true => Some(Ok(format!("{before:?} and more"))),
        false => before,
    };
    reloader.take(state, new, text)
}

fn keys(changes: &[Change]) -> Vec<&str> {
    changes.iter().map(Change::key).collect()
}

#[test]
fn what_changed_is_told_key_by_key() {
    let (mut reloader, seen) = reloader();
    let text = "transport.mode = \"grpc\"\ncluster.peer.max_connections = 7\ntransport.services.a = [\"b.C\"]";
    let reload = take(&mut reloader, text, false).expect("valid");
    assert_eq!(
        keys(reload.applied()),
        ["transport.mode", "transport.services.a"]
    );
    assert_eq!(
        keys(reload.needs_restart()),
        ["cluster.peer.max_connections"]
    );
    assert_eq!(
        reload.to_string(),
        "applied transport.mode: \"dual\" -> \"grpc\", transport.services.a: nothing -> [\"b.C\"]; \
             needs a restart: cluster.peer.max_connections: 100 -> 7"
    );
    assert_eq!(*seen.lock().expect("no panic"), [Mode::Grpc]);

    // What needs a restart is told until it has been, or the file says again what is in force.
    let reload = take(&mut reloader, "cluster.peer.max_connections = 7", false).expect("valid");
    assert_eq!(
        keys(reload.applied()),
        ["transport.mode", "transport.services.a"]
    );
    assert_eq!(
        keys(reload.needs_restart()),
        ["cluster.peer.max_connections"]
    );
    assert!(
        take(&mut reloader, "[transport]", false)
            .expect("valid")
            .is_empty()
    );
    assert_eq!(*seen.lock().expect("no panic"), [Mode::Grpc, Mode::Dual]);
}

#[test]
fn what_is_refused_changes_nothing() {
    let (mut reloader, seen) = reloader();
    let before = reloader.current().clone();
    for text in [
        "transport.mode = \"quic\"",
        "transport.mode = \"iroh\"",
        "",
        " \n# soon\n",
    ] {
        take(&mut reloader, text, false).expect_err(text);
    }
    assert!(Arc::ptr_eq(reloader.current(), &before) && seen.lock().expect("no panic").is_empty());
}

#[test]
fn what_runs_may_ask_for_a_restart() {
    let (mut reloader, _) = reloader();
    for _ in 0..2 {
        let reload = take(&mut reloader, "transport.iroh.enabled = false", false).expect("valid");
        assert_eq!(
            (keys(reload.applied()).len(), keys(reload.needs_restart())),
            (0, vec!["transport.iroh.enabled"])
        );
    }
}

#[test]
fn a_policy_with_another_text_is_a_change() {
    let (mut reloader, _) = reloader();
    let text = "transport.authorization_file = \"policy.toml\"";
    assert_eq!(
        keys(take(&mut reloader, text, false).expect("valid").applied()),
        [POLICY]
    );
    assert!(take(&mut reloader, text, false).expect("valid").is_empty());
    assert_eq!(
        keys(take(&mut reloader, text, true).expect("valid").applied()),
        [POLICY]
    );
    let reload = take(&mut reloader, "[transport]", true).expect("valid");
    assert_eq!(keys(reload.applied()), [POLICY], "gone, which is told once");
    assert!(
        take(&mut reloader, "[transport]", true)
            .expect("valid")
            .is_empty()
    );
}
