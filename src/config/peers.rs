//! Reads the peers of a file.

use std::net::SocketAddr;

use iroh::{EndpointAddr, EndpointId, RelayUrl, TransportAddr};

use super::{
    keys::PEERS,
    nearest::nearest,
    read::{Draft, plain},
    value::{Found, Refusal},
};
use crate::peer::{Peer, TcpAddr};

const KEYS: [&str; 5] = ["id", "iroh", "relay", "tcp", "ticket"];

/// Reads the tables of `[peers]`.
pub(super) fn read<'a>(draft: &mut Draft<'a>, found: Found<'a>) {
    const ACCEPTED: &str = "a table per peer, such as [peers.node-1], is accepted";
    let table = found.value.get_ref().as_table();
    let table = table.ok_or_else(|| found.refuse(ACCEPTED));
    let Some(table) = draft.note(PEERS, table) else {
        return;
    };
    for (name, value) in table.iter() {
        let text = draft.text;
        let key = format!("{PEERS}.{}", plain(name.get_ref()));
        draft.entry_at(PEERS, name.get_ref(), name.span());
        if let Some(peer) = peer(draft, &key, Found { text, value }) {
            draft.config.peers.insert(name.get_ref().to_string(), peer);
        }
    }
}

/// Reads one peer; `None` where a problem with it was noted.
fn peer<'a>(draft: &mut Draft<'a>, name: &str, found: Found<'a>) -> Option<Peer> {
    const ACCEPTED: &str = "a table with an `id` or a `ticket` is accepted";
    let table = found.value.get_ref().as_table();
    let table = draft.note(name, table.ok_or_else(|| found.refuse(ACCEPTED)))?;
    let (mut id, mut ticket, mut tcp) = (None, None, None);
    let (mut addrs, mut is_good) = (Vec::new(), true);
    for (written, value) in table.iter() {
        let text = draft.text;
        let found = Found { text, value };
        let key = format!("{name}.{}", plain(written.get_ref()));
        let read = match &**written.get_ref() {
            "id" => self::id(found).map(|it| id = Some((it, found))),
            "ticket" => self::ticket(found).map(|it| ticket = Some((it, found))),
            "tcp" => tcp_address(found).map(|it| tcp = Some(it)),
            "relay" => relay(found).map(|it| addrs.push(TransportAddr::Relay(it))),
            "iroh" => {
                addresses(found).map(|found| addrs.extend(found.into_iter().map(TransportAddr::Ip)))
            }
            other => Err(Refusal {
                at: written.span(),
                found: "is not a known key".to_owned(),
                accepted: format!("a peer has {}", KEYS.join(", ")),
                nearest: nearest(other, KEYS).map(str::to_owned),
            }),
        };
        is_good &= draft.note(&key, read).is_some();
    }
    if !is_good {
        return None;
    }
    let id = match (id, &ticket) {
        (Some((id, at)), Some((ticket, _))) if ticket.id() != id => {
            let refusal =
                at.refuse("the identity in the ticket, or no `id` beside a ticket, is accepted");
            draft.note::<()>(&format!("{name}.id"), Err(refusal));
            return None;
        }
        (Some((id, _)), _) => id,
        (None, Some((ticket, _))) => ticket.id(),
        (None, None) => {
            let refusal = Refusal {
                found: "has no identity".to_owned(),
                ..found.refuse("add `id = \"<endpoint id>\"` or `ticket = \"<ticket>\"`")
            };
            draft.note::<()>(name, Err(refusal));
            return None;
        }
    };
    let ticket = ticket.map(|(ticket, _)| ticket);
    let tcp = tcp.or_else(|| ticket.as_ref()?.tcp().cloned());
    let known = ticket.map(|ticket| ticket.addr().addrs.clone());
    let addr = EndpointAddr::from_parts(id, known.into_iter().flatten().chain(addrs));
    let peer = Peer::from(addr);
    Some(match tcp {
        Some(tcp) => peer.with_tcp(tcp),
        None => peer,
    })
}

fn id(found: Found<'_>) -> Result<EndpointId, Refusal> {
    let refused = || {
        found.refuse("an endpoint id of 64 hexadecimal digits or 52 base32 characters is accepted")
    };
    let text = found.string().map_err(|_| refused())?;
    text.to_ascii_lowercase().parse().map_err(|_| refused())
}

fn ticket(found: Found<'_>) -> Result<Peer, Refusal> {
    let refused = || found.refuse("a ticket, as `Peer` shows it (endpoint...), is accepted");
    let text = found.string().map_err(|_| refused())?;
    text.parse().map_err(|_| refused())
}

fn relay(found: Found<'_>) -> Result<RelayUrl, Refusal> {
    let refused = || found.refuse("the URL of the peer's relay is accepted");
    let text = found.string().map_err(|_| refused())?;
    let url: RelayUrl = text.parse().map_err(|_| refused())?;
    let is_good = matches!(url.scheme(), "https" | "http") && url.has_host();
    if is_good { Ok(url) } else { Err(refused()) }
}

/// The address of a peer over TCP: an IP address or a host's name, with a port.
fn tcp_address(found: Found<'_>) -> Result<TcpAddr, Refusal> {
    let refused = || {
        found.refuse(
            "an address or a host's name with a port, such as \"192.0.2.1:7001\" or \"db.example:7001\", is accepted",
        )
    };
    let text = found.string().map_err(|_| refused())?;
    text.parse().map_err(|_| refused())
}

/// An address that can be dialled.
fn address(found: Found<'_>) -> Result<SocketAddr, Refusal> {
    let refused = || {
        found.refuse("an IP address with a port to dial, such as \"192.0.2.1:4433\", is accepted")
    };
    let text = found.string().map_err(|_| refused())?;
    let addr: SocketAddr = text.parse().map_err(|_| refused())?;
    let is_dialable = addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast();
    if is_dialable {
        Ok(addr)
    } else {
        Err(refused())
    }
}

/// One address or a list of them.
fn addresses(found: Found<'_>) -> Result<Vec<SocketAddr>, Refusal> {
    if found.value.get_ref().is_str() {
        return Ok(vec![address(found)?]);
    }
    let list =
        found.list("an address such as \"192.0.2.1:4433\", or a list of them, is accepted")?;
    list.map(address).collect()
}
