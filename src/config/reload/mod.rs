//! Replaces one configuration with the next while the program runs: what changes, what can be applied, all of it or nothing.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use super::{
    Config, ConfigReader, LoadError,
    keys::{METHODS, Reloads, key},
    methods::TRANSPORT,
};
use tower_iroh_layers::BoxError;

mod state;

use state::values;
pub(super) use state::{PolicyText, State};

/// A key whose value changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    key: String,
    from: String,
    to: String,
}

impl Change {
    /// The key with its tables; a peer or a group is one key, such as `peers.node-1`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value in force before, as TOML; empty where there was none.
    pub fn from(&self) -> &str {
        &self.from
    }

    /// The value in the file now, as TOML; empty where there is none any more.
    pub fn to(&self) -> &str {
        &self.to
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_nothing = |value: &str| match value {
            "" => "nothing".to_owned(),
            value => value.to_owned(),
        };
        let (from, to) = (or_nothing(&self.from), or_nothing(&self.to));
        write!(f, "{}: {from} -> {to}", self.key)
    }
}

/// The result of a reload, key by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reload {
    applied: Vec<Change>,
    needs_restart: Vec<Change>,
}

impl Reload {
    /// The changes that are in force now.
    pub fn applied(&self) -> &[Change] {
        &self.applied
    }

    /// The changes that are not in force before the next start: all of them, also those that earlier reloads reported.
    pub fn needs_restart(&self) -> &[Change] {
        &self.needs_restart
    }

    /// Whether nothing changed: the file says what is in force.
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.needs_restart.is_empty()
    }
}

impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |changes: &[Change]| match changes {
            [] => "nothing".to_owned(),
            changes => changes
                .iter()
                .map(Change::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        };
        write!(f, "applied {}", list(&self.applied))?;
        match &self.needs_restart[..] {
            [] => Ok(()),
            changes => write!(f, "; needs a restart: {}", list(changes)),
        }
    }
}

/// A reload that was refused. What was in force before stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// The file cannot be read, or it is not a valid configuration.
    #[error("the configuration was not reloaded")]
    Load(#[from] LoadError),
    /// The file is empty. A first configuration may be: it has every default. In place of another one it is taken for a file that is being written.
    #[error("the configuration {} was not reloaded: it is empty; [transport] alone is accepted for every default", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It is a valid configuration, and the running program cannot take it.
    #[error("the configuration was not applied")]
    Apply(#[source] BoxError),
}

/// A configuration that is about to be put in force.
#[derive(Debug)]
pub struct Next {
    old: Arc<Config>,
    new: Arc<Config>,
    reload: Reload,
    /// The configuration without what needs a restart: the one before, until [`Apply`] says which is the next.
    pub(super) effective: Arc<Config>,
}

impl Next {
    /// The configuration before this one.
    pub fn before(&self) -> &Arc<Config> {
        &self.old
    }

    /// The configuration that is to be in force. Leave its keys that need a restart alone.
    pub fn config(&self) -> &Arc<Config> {
        &self.new
    }

    /// The changes that are to be applied.
    pub fn applied(&self) -> &[Change] {
        &self.reload.applied
    }

    /// Whether this key is to be applied, or a key in the table of this name.
    pub fn changes(&self, name: &str) -> bool {
        let is_within = |key: &str| {
            key.strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.reload
            .applied
            .iter()
            .any(|change| is_within(&change.key))
    }

    /// Marks a key whose new value cannot be applied before a restart. It does nothing to a key that has not changed.
    pub fn needs_restart(&mut self, key: &str) {
        let is_it = |change: &mut Change| change.key == key;
        let taken = self.reload.applied.extract_if(.., is_it);
        self.reload.needs_restart.extend(taken);
    }
}

/// Puts configurations in force, in two steps: either all of one or nothing.
///
/// A closure is one:
///
/// ```
/// use tower_iroh::config::{Apply, Commit, Next};
///
/// fn takes(_: impl Apply) {}
/// takes(|next: &mut Next| {
///     let share = next.config().rollout_stages()[0];
///     Ok(Box::new(move || println!("the first stage is {share} % now")) as Commit)
/// });
/// ```
pub trait Apply: Send + 'static {
    /// Prepares what the next configuration needs, and refuses it where something fails. It changes nothing that is in force: the [`Commit`] does.
    ///
    /// It may read files: it runs on a thread where blocking is allowed.
    ///
    /// # Errors
    /// Any error refuses the configuration. The old one stays in force.
    fn prepare(&mut self, next: &mut Next) -> Result<Commit, BoxError>;
}

impl<F> Apply for F
where
    F: FnMut(&mut Next) -> Result<Commit, BoxError> + Send + 'static,
{
    fn prepare(&mut self, next: &mut Next) -> Result<Commit, BoxError> {
        self(next)
    }
}

/// Puts the prepared configuration in force. It cannot fail.
pub type Commit = Box<dyn FnOnce() + Send>;

/// Puts the next configuration in the place of the one in force.
pub(super) struct Reloader {
    reader: ConfigReader,
    path: PathBuf,
    apply: Box<dyn Apply>,
}

impl Reloader {
    pub(super) fn new(reader: ConfigReader, path: PathBuf, apply: Box<dyn Apply>) -> Self {
        Self {
            reader,
            path,
            apply,
        }
    }

    /// Reads the file's text. An empty one is refused.
    pub(super) fn read(&self, text: &str) -> Result<Config, ReloadError> {
        let is_comment = |line: &str| line.is_empty() || line.starts_with('#');
        if text.lines().all(|line| is_comment(line.trim())) {
            let path = self.path.clone();
            return Err(ReloadError::Empty { path });
        }
        Ok(self.reader.read_as(&self.path, text)?)
    }

    /// Puts a configuration in force, with the text of the policy that it names.
    pub(super) fn take(
        &mut self,
        state: &mut State,
        new: Config,
        policy: Option<PolicyText>,
    ) -> Result<Reload, ReloadError> {
        for warning in new.warnings() {
            tracing::warn!(target: "tower_iroh::config", file = %self.path.display(), "{warning}");
        }
        let values = values(&new);
        let mut next = Next {
            old: state.accepted.clone(),
            new: Arc::new(new),
            reload: changes(&state.values, &values, policy != state.policy),
            effective: state.effective.clone(),
        };
        if !next.reload.applied.is_empty() {
            let commit = self.apply.prepare(&mut next).map_err(ReloadError::Apply)?;
            commit();
        }
        for Change { key, .. } in &next.reload.applied {
            match values.get(key) {
                Some(value) => state.values.insert(key.clone(), value.clone()),
                None => state.values.remove(key),
            };
        }
        state.accepted = next.new;
        state.effective = next.effective;
        state.policy = policy;
        Ok(next.reload)
    }
}

const POLICY: &str = "transport.authorization_file";

fn changes(
    in_force: &BTreeMap<String, String>,
    values: &BTreeMap<String, String>,
    policy: bool,
) -> Reload {
    let mut reload = Reload::default();
    let new_keys = values.keys().filter(|key| !in_force.contains_key(*key));
    for name in in_force.keys().chain(new_keys) {
        let (from, to) = (in_force.get(name), values.get(name));
        let is_new_policy = policy && name == POLICY && to.is_some();
        if from == to && !is_new_policy {
            continue;
        }
        let change = Change {
            key: name.clone(),
            from: from.cloned().unwrap_or_default(),
            to: to.cloned().unwrap_or_default(),
        };
        match key(name).map_or_else(|| of_entry(name), |key| key.reloads) {
            Reloads::Applied => reload.applied.push(change),
            Reloads::Restart => reload.needs_restart.push(change),
        }
    }
    reload
}

/// The effect of a reload on a group, a peer or a key of a method.
fn of_entry(name: &str) -> Reloads {
    let of_method = name
        .strip_prefix(METHODS)
        .and_then(|it| it.strip_prefix('.'));
    match of_method.and_then(|it| it.rsplit('.').next()) {
        Some(key) if key != TRANSPORT => Reloads::Restart,
        _ => Reloads::Applied,
    }
}

#[cfg(test)]
mod tests;
