//! Which peer a call goes to.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderName, Request, uri::Authority};
use iroh::EndpointId;
use tonic::Status;
use tower_iroh::{Channel, Peer, Peers, PeersError, Transport};

use super::Options;
use crate::{failure::Failure, pages::is_this_machine, target::Target};

/// The metadata that names a call's peer. It goes no further.
pub(super) const PEER: HeaderName = HeaderName::from_static("x-iroh-peer");

/// In a request's extensions: what metrics call its peer.
#[derive(Clone)]
pub(super) struct PeerLabel(pub(super) Arc<str>);

/// How many peers are remembered that clients named by id alone.
const REMEMBERED: usize = 1000;

/// Reads `NAME=PEER`.
pub(super) fn alias(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, peer)) if !name.is_empty() && !peer.is_empty() => {
            Ok((name.to_owned(), peer.to_owned()))
        }
        _ => Err(format!("`{text}` gives no peer a name; write `NAME=PEER`")),
    }
}

/// The peers by name, and those that were named by id.
pub(super) struct Routes {
    peers: Peers,
    /// The peer of every call.
    fixed: Option<String>,
    /// The peer of a call that names none.
    only: Option<String>,
    named_by_id: Mutex<VecDeque<String>>,
}

impl Routes {
    pub(super) fn new(transport: &Transport, options: &Options) -> Result<Self, Failure> {
        let peers = transport.peers().clone();
        let config = transport.config();
        let read = |text: &str| match Target::read(text, Some(config))? {
            Target::Peer(peer) => Ok(peer),
            Target::Server(server) => Err(Failure::usage(format!(
                "`{server}` is no peer: clients reach it without a gateway"
            ))),
        };
        for (name, text) in &options.peers {
            if peers.get(name).is_some() {
                return Err(Failure::usage(format!(
                    "two peers are called `{name}`; give one of them another name"
                )));
            }
            peers.add(name, read(text)?);
        }
        let fixed = match &options.peer {
            None => None,
            // By name, so that it follows the configuration.
            Some(name) if peers.get(name).is_some() => Some(name.clone()),
            Some(text) => {
                let peer = read(text)?;
                let name = peer.id().to_string();
                peers.add(&name, peer);
                Some(name)
            }
        };
        let only = match (options.peers.as_slice(), &options.names.config) {
            ([(name, _)], None) => Some(name.clone()),
            _ => None,
        };
        for place in &options.listen {
            let unknown = |name: &&String| peers.get(name).is_none();
            if let Some(name) = place.peer.as_ref().filter(unknown) {
                return Err(Failure::usage(format!(
                    "`--listen {place}={name}`: no peer is called `{name}`; name it with `--peer {name}=TICKET`"
                )));
            }
        }
        Ok(Self {
            peers,
            fixed,
            only,
            named_by_id: Mutex::default(),
        })
    }

    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The peer of every call, if there is one.
    pub(super) fn fixed(&self) -> Option<&String> {
        self.fixed.as_ref()
    }

    /// What metrics call the peer of this name. The operator gave the names; ids come from clients, and there is no end of them.
    pub(super) fn label(&self, name: &str) -> PeerLabel {
        // To read a key takes microseconds. No name that is meant for people is as long as an id in either of its forms.
        let is_id = matches!(name.len(), 52 | 64) && self.fixed.as_deref() != Some(name);
        PeerLabel(if is_id { "by_id" } else { name }.into())
    }

    /// The channel for a call, and the name of its peer. `None` if the call names no peer.
    pub(super) fn route<B>(
        &self,
        request: &mut Request<B>,
        of_connection: Option<&str>,
    ) -> Option<Result<(Channel, String), Status>> {
        // Removed in any case, so that the peer does not see it.
        let named = request.headers_mut().remove(PEER);
        if let Some(fixed) = of_connection.or(self.fixed.as_deref()) {
            return Some(self.channel(fixed));
        }
        if let Some(named) = named {
            let name = String::from_utf8_lossy(named.as_bytes());
            return Some(self.channel(name.trim()));
        }
        let host = request.uri().authority().map(Authority::host);
        match host.filter(|host| !is_this_machine(host)) {
            Some(host) => Some(self.channel(host)),
            None => self.only.as_deref().map(|only| self.channel(only)),
        }
    }

    /// The channel to the peer with this name or id, with or without `.iroh` after it.
    pub(super) fn channel(&self, name: &str) -> Result<(Channel, String), Status> {
        const SUFFIX: &str = ".iroh";
        let short = match name
            .len()
            .checked_sub(SUFFIX.len())
            .and_then(|at| name.split_at_checked(at))
        {
            Some((short, suffix)) if suffix.eq_ignore_ascii_case(SUFFIX) => short,
            _ => name,
        };
        let found = match self.peers.channel(short) {
            Err(PeersError::Unknown(_)) => self.channel_otherwise(short),
            found => found.map(|channel| (channel, short.to_owned())),
        };
        found.map_err(|error| match error {
            PeersError::Unknown(_) => {
                let names = self.peers.list().into_iter().map(|(name, _)| name);
                let aliases: Vec<_> = names.filter(|name| by_id(name).is_none()).collect();
                Status::unavailable(format!(
                    "the gateway knows no peer `{name}`; use one of its names ({}), or an endpoint id",
                    aliases.join(", ")
                ))
            }
            other => Status::unavailable(other.to_string()),
        })
    }

    /// A name in another case, since a client's URL parser may fold a host; or an id.
    fn channel_otherwise(&self, name: &str) -> Result<(Channel, String), PeersError> {
        if let Some(id) = by_id(name) {
            return Ok((self.named_by_id(id)?, name.to_owned()));
        }
        let names = self.peers.list().into_iter().map(|(name, _)| name);
        let folded = names
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(name));
        let known = folded.ok_or_else(|| PeersError::Unknown(name.to_owned()))?;
        Ok((self.peers.channel(&known)?, known))
    }

    fn named_by_id(&self, id: EndpointId) -> Result<Channel, PeersError> {
        let name = id.to_string();
        let mut named = self
            .named_by_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.peers.get(&name).is_none() {
            self.peers.add(&name, Peer::new(id));
            named.push_back(name.clone());
            // Names come from clients, so they are bounded: the oldest goes.
            if named.len() > REMEMBERED
                && let Some(oldest) = named.pop_front()
            {
                self.peers.remove(&oldest);
            }
        }
        drop(named);
        self.peers.channel(&name)
    }
}

/// An id in hexadecimal or in z-base-32, which fits into a host name.
fn by_id(text: &str) -> Option<EndpointId> {
    let text = text.to_ascii_lowercase();
    EndpointId::from_z32(&text)
        .ok()
        .or_else(|| text.parse().ok())
}
