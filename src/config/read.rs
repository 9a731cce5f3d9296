//! Reads a configuration from text, and collects all problems in it.

use std::{collections::HashMap, ops::Range};

use toml::de::DeTable;

use super::{
    Config, LoadError, Problem,
    check::contradictions,
    codecs::{Form, Names},
    keys::{KEYS, METHODS, PEERS, PREFER_IROH, ROLLOUT, SERVICES, key},
    methods,
    nearest::nearest,
    peers,
    settings::Groups,
    value::{Found, Refusal, place, quote},
};
use tower_iroh_layers::MethodSet;

/// Reads the text; `groups` were registered in code.
pub(super) fn read(text: &str, groups: &Groups) -> Result<Config, LoadError> {
    let mut draft = Draft {
        text,
        config: Config::default(),
        problems: Vec::new(),
        places: HashMap::new(),
        lists: Vec::new(),
    };
    for (name, methods) in groups {
        draft.add_group(name, methods.clone(), |_| None);
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map(|span| span.start);
        draft.problems.push(Problem {
            file: None,
            place: at.map(|at| place(text, at)),
            key: String::new(),
            found: "is not valid TOML".to_owned(),
            accepted: error.message().to_owned(),
            nearest: None,
        });
    }
    if errors.is_empty() {
        draft.table("", table.get_ref());
        draft.one_list();
        draft.together();
    }
    let mut problems = draft.problems;
    if problems.is_empty() {
        return Ok(draft.config);
    }
    problems.sort_by_key(|problem| problem.place);
    problems.truncate(LoadError::MOST);
    Err(LoadError::Invalid { problems })
}

/// A configuration that is being read.
pub(super) struct Draft<'a> {
    pub(super) text: &'a str,
    pub(super) config: Config,
    problems: Vec<Problem>,
    /// The place of each key's value; that of an entry of a list or table is under the key and the entry.
    places: HashMap<(&'static str, Option<String>), Range<usize>>,
    /// Each spelling of the list of groups that prefer iroh.
    lists: Vec<(&'static str, Range<usize>, Vec<String>)>,
}

impl<'a> Draft<'a> {
    fn table(&mut self, prefix: &str, table: &'a DeTable<'a>) {
        let dot = if prefix.is_empty() { "" } else { "." };
        for (written, value) in table.iter() {
            let name = format!("{prefix}{dot}{}", written.get_ref());
            let found = Found {
                text: self.text,
                value,
            };
            if let Some(spelling) = PREFER_IROH.iter().find(|it| **it == name) {
                self.spelling(spelling, found);
            } else if let Some(key) = key(&name) {
                self.places.insert((key.name, None), found.span());
                let read = (key.read)(&mut self.config, found);
                self.note(&name, read);
            } else if name == SERVICES {
                self.services(found);
            } else if name == PEERS {
                peers::read(self, found);
            } else if name == METHODS {
                methods::tables(self, found);
            } else if is_table(&name) {
                match value.get_ref().as_table() {
                    Some(table) => {
                        if name == ROLLOUT {
                            self.config.rollout_enabled = true;
                        }
                        // `enabled` itself, where it is there, is read after that.
                        self.table(&name, table);
                    }
                    None => {
                        self.note::<()>(&name, Err(found.refuse("a table is accepted")));
                    }
                }
            } else {
                self.unknown(prefix, written.get_ref(), written.span());
            }
        }
    }

    /// Records why a key was refused.
    pub(super) fn note<T>(&mut self, key: &str, read: Result<T, Refusal>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(refusal) => {
                self.problems.push(Problem {
                    file: None,
                    place: Some(place(self.text, refusal.at.start)),
                    key: key.to_owned(),
                    found: refusal.found,
                    accepted: refusal.accepted,
                    nearest: refusal.nearest,
                });
                None
            }
        }
    }

    /// Records the place of an entry of a list or a table.
    pub(super) fn entry_at(&mut self, key: &'static str, entry: &str, at: Range<usize>) {
        self.places.insert((key, Some(entry.to_owned())), at);
    }

    fn unknown(&mut self, prefix: &str, written: &str, at: Range<usize>) {
        let siblings = names_in(prefix);
        let near = nearest(written, siblings.iter().copied()).map(str::to_owned);
        // The key may be spelled well and stand in the wrong table.
        let elsewhere = || {
            let all = KEYS
                .iter()
                .map(|key| key.name)
                .chain(PREFER_IROH[1..].iter().copied());
            let mut named = all.filter(|name| name.rsplit('.').next() == Some(written));
            named.next().map(str::to_owned)
        };
        let refusal = Refusal {
            at,
            found: "is not a known key".to_owned(),
            nearest: near.or_else(elsewhere),
            accepted: match prefix {
                "" => format!("{} are accepted", siblings.join(", ")),
                _ => format!("[{prefix}] has {}", siblings.join(", ")),
            },
        };
        let name = match prefix {
            "" => plain(written),
            _ => format!("{prefix}.{}", plain(written)),
        };
        self.note::<()>(&name, Err(refusal));
    }

    fn services(&mut self, found: Found<'a>) {
        let Some(table) = found.value.get_ref().as_table() else {
            let accepted = "a table of lists, such as { status = [\"pkg.Status\"] }, is accepted";
            self.note::<()>(SERVICES, Err(found.refuse(accepted)));
            return;
        };
        for (name, value) in table.iter() {
            const ACCEPTED: &str =
                "a list of /pkg.Service/Method, /pkg.Service/* or pkg.Service is accepted";
            let text = self.text;
            let found = Found { text, value };
            let key = format!("{SERVICES}.{}", plain(name.get_ref()));
            self.entry_at(SERVICES, name.get_ref(), name.span());
            let Some(list) = self.note(&key, found.list(ACCEPTED)) else {
                continue;
            };
            let (mut methods, mut places) = (Vec::new(), Vec::new());
            for method in list {
                let read = method.string().map_err(|_| method.refuse(ACCEPTED));
                if let Some(read) = self.note(&key, read) {
                    methods.push(read.to_owned());
                    places.push(method.span());
                }
            }
            self.add_group(name.get_ref(), methods, |index| places.get(index).cloned());
        }
    }

    /// Takes a group, whose methods must be some.
    fn add_group(
        &mut self,
        name: &str,
        methods: Vec<String>,
        at: impl Fn(usize) -> Option<Range<usize>>,
    ) {
        for (index, method) in methods.iter().enumerate() {
            if let Err(error) = MethodSet::try_new(SERVICES, [method]) {
                self.problems.push(Problem {
                    file: None,
                    place: at(index).map(|at| place(self.text, at.start)),
                    key: format!("{SERVICES}.{}", plain(name)),
                    found: format!("= {}", error.value()),
                    accepted: error.accepted().to_owned(),
                    nearest: None,
                });
            }
        }
        self.config.groups.insert(name.to_owned(), methods);
    }

    fn spelling(&mut self, spelling: &'static str, found: Found<'a>) {
        let Some(names) = self.note(spelling, Names::read(found)) else {
            return;
        };
        if let Some(list) = found.value.get_ref().as_array() {
            for (name, value) in names.iter().zip(list) {
                self.entry_at(PREFER_IROH[0], name, value.span());
            }
        }
        self.lists.push((spelling, found.span(), names));
    }

    /// Makes one list of all spellings, which must have the same content.
    fn one_list(&mut self) {
        self.lists.sort_by_key(|(_, at, _)| at.start);
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names.dedup();
            names
        };
        let lists = std::mem::take(&mut self.lists);
        let Some((first, first_at, names)) = lists.first() else {
            return;
        };
        let (first_line, _) = place(self.text, first_at.start);
        for (spelling, at, others) in &lists[1..] {
            if sorted(others) == sorted(names) {
                continue;
            }
            let (line, _) = place(self.text, at.start);
            let refusal = Refusal {
                at: at.clone(),
                found: format!("on line {line} differs from {first} on line {first_line}"),
                accepted:
                    "both are spellings of one list; keep one of them, or give both the same content"
                        .to_owned(),
                nearest: None,
            };
            self.note::<()>(spelling, Err(refusal));
        }
        self.places.insert((PREFER_IROH[0], None), first_at.clone());
        self.config.prefer_iroh_for = names.clone();
    }

    /// Checks all keys together.
    fn together(&mut self) {
        for wrong in contradictions(&self.config) {
            let line = |key| {
                let at = self.places.get(&(key, None))?;
                Some(place(self.text, at.start).0)
            };
            let entry = self.places.get(&(wrong.key, wrong.entry.clone()));
            let at = entry.or_else(|| self.places.get(&(wrong.key, None)));
            let at = at.or_else(|| self.places.get(&(wrong.other?, None)));
            let other = wrong
                .other
                .and_then(|other| Some(format!(" ({other}: line {})", line(other)?)));
            self.problems.push(Problem {
                file: None,
                place: at.map(|at| place(self.text, at.start)),
                key: wrong.key.to_owned(),
                found: format!("= {}", wrong.value(&self.config)),
                accepted: wrong.accepted + &other.unwrap_or_default(),
                nearest: wrong.nearest,
            });
        }
    }
}

/// A part of a key, quoted where TOML asks for that, and abridged.
pub(super) fn plain(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let short: String = name.chars().take(64).collect();
    match !short.is_empty() && short.chars().all(bare) {
        true => short,
        false => quote(&short),
    }
}

/// Whether a key is in this table.
fn is_table(name: &str) -> bool {
    let mut keys = KEYS.iter().map(|key| key.name);
    keys.any(|key| {
        key.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

/// The names that a table may have.
fn names_in(prefix: &str) -> Vec<&'static str> {
    let keys = KEYS.iter().map(|key| key.name);
    let others = PREFER_IROH
        .iter()
        .chain([&SERVICES, &PEERS, &METHODS])
        .copied();
    let within = |key: &'static str| match prefix {
        "" => Some(key),
        _ => key.strip_prefix(prefix)?.strip_prefix('.'),
    };
    let mut names: Vec<_> = keys
        .chain(others)
        .filter_map(within)
        .map(|rest| rest.split('.').next().unwrap_or(rest))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}
