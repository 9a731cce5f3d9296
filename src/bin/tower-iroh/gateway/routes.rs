//! Which peer a call goes to.

use std::{collections::VecDeque, sync::Mutex};

use http::{HeaderName, Request};
use iroh::EndpointId;
use tonic::Status;
use tower_iroh::{Channel, Peer, Peers, PeersError, Transport};

use super::Options;
use crate::{failure::Failure, target::Target};

/// The metadata that names a call's peer. It goes no further.
pub(super) const PEER: HeaderName = HeaderName::from_static("x-iroh-peer");

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
    named_by_id: Mutex<VecDeque<String>>,
}

/// The name under which the peer of every call is known; no host is called that.
const FIXED: &str = "the gateway's peer";

impl Routes {
    pub(super) fn new(transport: &Transport, options: &Options) -> Result<Self, Failure> {
        let peers = transport.peers().clone();
        let config = transport.config();
        let read = |text: &str| match Target::read(text, Some(config))? {
            Target::Peer(peer) => Ok(peer),
            Target::Tcp(address) => Err(Failure::usage(format!(
                "`tcp://{address}` is no peer: clients reach it without a gateway"
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
        let mut fixed = None;
        if let Some(text) = &options.peer {
            let peer = match peers.get(text) {
                Some(peer) => peer,
                None => read(text)?,
            };
            peers.add(FIXED, peer);
            fixed = Some(FIXED.to_owned());
        } else if let ([(name, _)], None) = (options.peers.as_slice(), &options.names.config) {
            // The only peer that there is.
            fixed = Some(name.clone());
        }
        for place in &options.listen {
            if let Some(name) = place.peer.as_ref().filter(|name| peers.get(name).is_none()) {
                return Err(Failure::usage(format!(
                    "`--listen {place}={name}`: no peer is called `{name}`; name it with `--peer {name}=TICKET`"
                )));
            }
        }
        Ok(Self {
            peers,
            fixed,
            named_by_id: Mutex::default(),
        })
    }

    pub(super) fn peers(&self) -> &Peers {
        &self.peers
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
        let authority = request.uri().authority()?;
        // An address is the gateway's own, which names no peer.
        let is_address = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<std::net::IpAddr>()
            .is_ok();
        match is_address || authority.host() == "localhost" {
            true => None,
            false => Some(self.channel(authority.host())),
        }
    }

    /// The channel to the peer with this name or id, with or without `.iroh` after it.
    pub(super) fn channel(&self, name: &str) -> Result<(Channel, String), Status> {
        let short = name.strip_suffix(".iroh").unwrap_or(name);
        let unknown = |_: PeersError| {
            let aliases: Vec<_> = self
                .peers
                .list()
                .into_iter()
                .map(|(name, _)| name)
                .filter(|name| name != FIXED && by_id(name).is_none())
                .collect();
            Status::unavailable(format!(
                "the gateway knows no peer `{name}`; use one of its names ({}), or an endpoint id",
                aliases.join(", ")
            ))
        };
        let found = self
            .peers
            .channel(short)
            .or_else(|error| match by_id(short) {
                Some(id) => self.named_by_id(id),
                None => Err(error),
            });
        found
            .map(|channel| (channel, short.to_owned()))
            .map_err(unknown)
    }

    fn named_by_id(&self, id: EndpointId) -> Result<Channel, PeersError> {
        let name = id.to_string();
        let mut named = self
            .named_by_id
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
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
