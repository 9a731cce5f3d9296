use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    AccessPolicy, Limits, PolicyError,
    error::nearest,
    policy::{Entry, Grants, service_of},
};

/// Makes a [`AccessPolicy`]: in code, or from TOML, with the same checks.
#[derive(Clone, Debug, Default)]
pub struct AccessPolicyBuilder {
    roles: Vec<Role>,
    peers: Vec<(At<String>, Draft)>,
    authenticated: Option<Draft>,
    anonymous: Option<Draft>,
    limits: At<Limits>,
}

/// A value, and its line in the file that it is from.
#[derive(Clone, Debug, Default)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) line: Option<usize>,
}

impl<T> At<T> {
    fn code(value: T) -> Self {
        Self { value, line: None }
    }
}

#[derive(Clone, Debug)]
struct Role {
    name: String,
    methods: Vec<At<String>>,
}

/// An entry whose roles are names yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    pub(super) roles: Vec<At<String>>,
    pub(super) limits: Option<At<Limits>>,
}

impl Draft {
    fn code<R: Into<String>>(roles: impl IntoIterator<Item = R>) -> Self {
        Self {
            roles: roles
                .into_iter()
                .map(|role| At::code(role.into()))
                .collect(),
            limits: None,
        }
    }
}

impl AccessPolicyBuilder {
    /// A role: methods as `/package.Service/Method`, `/package.Service/*` or `*`.
    pub fn role<M: Into<String>>(
        mut self,
        name: impl Into<String>,
        methods: impl IntoIterator<Item = M>,
    ) -> Self {
        let methods = methods.into_iter().map(|method| At::code(method.into()));
        self.add_role(name.into(), methods.collect());
        self
    }

    /// A peer by its identity, with these roles and no others: without any, it is shut out. Names are compared byte by byte, so it
    /// has to be spelled as the transport's [`Identify`](super::Identify) spells it.
    pub fn peer<R: Into<String>>(
        mut self,
        identity: impl Into<String>,
        roles: impl IntoIterator<Item = R>,
    ) -> Self {
        self.add_peer(At::code(identity.into()), Draft::code(roles));
        self
    }

    /// A peer as with [`peer`](Self::peer), and limits of its own. What they do not say is as [for all](Self::limits); rate and burst
    /// go together.
    pub fn peer_with_limits<R: Into<String>>(
        mut self,
        identity: impl Into<String>,
        roles: impl IntoIterator<Item = R>,
        limits: Limits,
    ) -> Self {
        let mut draft = Draft::code(roles);
        draft.limits = Some(At::code(limits));
        self.add_peer(At::code(identity.into()), draft);
        self
    }

    /// Peers that prove an identity which is not listed. Default: they may nothing.
    pub fn authenticated<R: Into<String>>(mut self, roles: impl IntoIterator<Item = R>) -> Self {
        self.authenticated = Some(Draft::code(roles));
        self
    }

    /// Callers without an identity. Default: they may nothing.
    pub fn anonymous<R: Into<String>>(mut self, roles: impl IntoIterator<Item = R>) -> Self {
        self.anonymous = Some(Draft::code(roles));
        self
    }

    /// Limits for each caller, as far as it has none of its own. All anonymous callers together count as one caller.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = At::code(limits);
        self
    }

    pub(super) fn add_role(&mut self, name: String, methods: Vec<At<String>>) {
        self.roles.push(Role { name, methods });
    }

    pub(super) fn add_peer(&mut self, identity: At<String>, draft: Draft) {
        self.peers.push((identity, draft));
    }

    pub(super) fn set_others(&mut self, authenticated: Option<Draft>, anonymous: Option<Draft>) {
        self.authenticated = authenticated;
        self.anonymous = anonymous;
    }

    pub(super) fn set_limits(&mut self, limits: At<Limits>) {
        self.limits = limits;
    }

    /// Checks everything and makes the policy.
    ///
    /// # Errors
    /// [`PolicyError`]: for a role that is not there or is there twice, a peer that is listed twice or has whitespace around its name, a method that is none, a limit that
    /// nothing could meet.
    pub fn build(self) -> Result<AccessPolicy, PolicyError> {
        let mut roles = HashMap::new();
        for role in &self.roles {
            let key = format!("roles.{}", role.name);
            if roles
                .insert(role.name.as_str(), grants_of(&key, role)?)
                .is_some()
            {
                return Err(PolicyError::new(None, key, "this role is there twice"));
            }
        }
        self.limits.value.check("limits", self.limits.line)?;
        let entry = |key: &str, draft: &Draft| self.entry(&roles, key, draft).map(Arc::new);
        let other =
            |key, draft: &Option<Draft>| draft.as_ref().map(|it| entry(key, it)).transpose();
        let mut peers = HashMap::new();
        for (At { value: name, line }, draft) in &self.peers {
            let key = format!("peers.{name:?}");
            if name.is_empty() {
                return Err(PolicyError::new(*line, key, "an identity has a name"));
            }
            // It would match nobody, and its peer would pass for one that is not listed.
            if name.trim() != name {
                let problem = "whitespace around a name: take it away";
                return Err(PolicyError::new(*line, key, problem));
            }
            let entry = entry(&key, draft)?;
            if peers.insert(Arc::from(name.as_str()), entry).is_some() {
                return Err(PolicyError::new(*line, key, "this peer is listed twice"));
            }
        }
        Ok(AccessPolicy {
            peers,
            authenticated: other("authenticated", &self.authenticated)?,
            anonymous: other("anonymous", &self.anonymous)?,
        })
    }

    fn entry(
        &self,
        roles: &HashMap<&str, Grants>,
        key: &str,
        draft: &Draft,
    ) -> Result<Entry, PolicyError> {
        let mut grants = Grants::default();
        for At { value: name, line } in &draft.roles {
            let Some(role) = roles.get(name.as_str()) else {
                let meant = match nearest(name, roles.keys().copied()) {
                    Some(meant) => format!("; did you mean {meant:?}?"),
                    None => format!("; add [roles.{name}]"),
                };
                let problem = format!("there is no role {name:?}{meant}");
                return Err(PolicyError::new(*line, format!("{key}.roles"), problem));
            };
            grants.all |= role.all;
            grants.services.extend(role.services.iter().cloned());
            grants.methods.extend(role.methods.iter().cloned());
        }
        let limits = match &draft.limits {
            Some(limits) => {
                limits.value.check(&format!("{key}.limits"), limits.line)?;
                limits.value.or(&self.limits.value)
            }
            None => self.limits.value.clone(),
        };
        Ok(Entry { grants, limits })
    }
}

fn grants_of(key: &str, role: &Role) -> Result<Grants, PolicyError> {
    let mut all = false;
    let mut services = HashSet::new();
    let mut methods = HashSet::new();
    for At {
        value: method,
        line,
    } in &role.methods
    {
        let plain = method.strip_suffix('*').unwrap_or(method);
        // A service is written `/package.Service/*`: with a method in place of the star it has to be a path.
        match service_of(&format!("{plain}M")) {
            _ if method == "*" => all = true,
            Some(_) if plain.contains('*') || plain.contains(char::is_whitespace) => {
                return Err(no_method(key, method, *line));
            }
            Some(service) if plain.len() < method.len() && service == plain => {
                services.insert(plain.into());
            }
            Some(service) if plain.len() == method.len() && service != plain => {
                methods.insert(plain.into());
            }
            _ => return Err(no_method(key, method, *line)),
        }
    }
    Ok(Grants {
        all,
        services,
        methods,
    })
}

fn no_method(key: &str, method: &str, line: Option<usize>) -> PolicyError {
    let problem = format!(
        "{method:?} is no method: \"/package.Service/Method\", \"/package.Service/*\" and \"*\" are accepted"
    );
    PolicyError::new(line, format!("{key}.methods"), problem)
}
