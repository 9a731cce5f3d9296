//! Who a peer is and how to reach it.

use std::{fmt, str::FromStr};

use http::Uri;
use iroh::{Endpoint, EndpointAddr, EndpointId, TransportAddr};
use iroh_tickets::{Ticket, endpoint::EndpointTicket};

pub mod identity;
mod info;
mod path;
mod proof;
mod tcp_addr;
mod transport_kind;

pub use info::PeerInfo;
pub use path::Path;
pub(crate) use proof::Proof;
pub use tcp_addr::TcpAddr;
pub use transport_kind::TransportKind;

/// How to reach a peer: its identity and its known addresses.
///
/// It parses from a ticket, a bare endpoint id, `iroh://<endpoint id>` or `http://<endpoint id>`, in small letters or capitals, and displays as a
/// [ticket](Self::ticket).
///
/// ```
/// use tower_iroh::Peer;
///
/// let id = iroh::SecretKey::from_bytes(&[7; 32]).public();
/// let peer = Peer::from(iroh::EndpointAddr::new(id).with_ip_addr("192.0.2.1:4433".parse()?));
/// assert_eq!(peer.ticket().parse::<Peer>()?, peer);
/// assert_eq!(format!("iroh://{id}").parse::<Peer>()?.id(), id);
/// assert!("https://example.com".parse::<Peer>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    addr: EndpointAddr,
    tcp: Option<TcpAddr>,
}

impl Peer {
    /// A peer with only an identity; the endpoint's address lookup finds its addresses.
    pub fn new(id: EndpointId) -> Self {
        EndpointAddr::new(id).into()
    }

    /// The peer that `endpoint` is to others, with dialable addresses only: never `0.0.0.0`, never port 0.
    ///
    /// An endpoint that was bound a moment ago may not know all of its addresses yet; with a relay, wait for
    /// [`Endpoint::online`] first.
    ///
    /// # Errors
    /// [`PeerError::Closed`] if the endpoint is closed, [`PeerError::NotDialable`] if it has neither an
    /// address nor a relay.
    pub fn of(endpoint: &Endpoint) -> Result<Self, PeerError> {
        if endpoint.is_closed() {
            return Err(PeerError::Closed);
        }
        let known = endpoint.addr();
        let bound = endpoint.bound_sockets().into_iter().map(TransportAddr::Ip);
        let mut addrs: Vec<_> = known.addrs.into_iter().filter(is_dialable).collect();
        if !addrs.iter().any(TransportAddr::is_ip) {
            addrs.extend(bound.filter(is_dialable));
        }
        if addrs.is_empty() {
            return Err(PeerError::NotDialable);
        }
        Ok(EndpointAddr::from_parts(known.id, addrs).into())
    }

    /// The peer's identity, which it proves in every handshake.
    pub fn id(&self) -> EndpointId {
        self.addr.id
    }

    /// The identity and the addresses, as iroh takes them.
    pub fn addr(&self) -> &EndpointAddr {
        &self.addr
    }

    /// Adds the peer's TCP address. The peer proves the same identity there.
    ///
    /// ```
    /// use tower_iroh::{Peer, TcpAddr};
    ///
    /// let id = iroh::SecretKey::from_bytes(&[7; 32]).public();
    /// let addr: TcpAddr = "db.example:7001".parse()?;
    /// let peer = Peer::new(id).with_tcp(addr.clone());
    /// assert_eq!(peer.tcp(), Some(&addr));
    /// assert_eq!(peer.ticket().parse::<Peer>()?, peer);
    /// # Ok::<(), tower_iroh::PeerError>(())
    /// ```
    pub fn with_tcp(mut self, addr: impl Into<TcpAddr>) -> Self {
        self.tcp = Some(addr.into());
        self
    }

    /// The peer's TCP address, if known.
    pub fn tcp(&self) -> Option<&TcpAddr> {
        self.tcp.as_ref()
    }

    /// `http://<endpoint id>`, for [`tonic::transport::Endpoint`], which sends the scheme as `:scheme`. gRPC servers expect `http` or `https` there.
    pub fn uri(&self) -> Uri {
        Uri::builder()
            .scheme("http")
            .authority(self.id().to_string())
            .path_and_query("/")
            .build()
            // All parts are valid.
            .unwrap_or_default()
    }

    /// The peer as text, for another program that will dial it: iroh's ticket, and after it `+tcp/<address>` if the peer has a
    /// [TCP address](Self::tcp). iroh's own programs read the part before the `+`.
    pub fn ticket(&self) -> String {
        let ticket = EndpointTicket::new(self.addr.clone()).encode_string();
        match &self.tcp {
            Some(tcp) => format!("{ticket}{TCP}{tcp}"),
            None => ticket,
        }
    }

    /// Reads `iroh://<endpoint id>` or `http://<endpoint id>`.
    ///
    /// # Errors
    /// [`PeerError::Scheme`] and [`PeerError::Id`], naming what was found.
    pub fn from_uri(uri: &Uri) -> Result<Self, PeerError> {
        let scheme = uri.scheme_str().unwrap_or("none");
        match scheme.to_ascii_lowercase().as_str() {
            "iroh" | "http" => {}
            "https" => return Err(PeerError::Https),
            _ => return Err(PeerError::Scheme(scheme.to_owned())),
        }
        let host = uri.host().unwrap_or_default();
        let id = host.to_ascii_lowercase().parse();
        Ok(Self::new(id.map_err(|_| PeerError::Id(abridged(host)))?))
    }
}

/// Between iroh's ticket and the TCP address. All of it can be part of a QR code's alphanumeric text.
const TCP: &str = "+tcp/";

fn is_dialable(addr: &TransportAddr) -> bool {
    match addr {
        TransportAddr::Ip(addr) => {
            !addr.ip().is_unspecified() && !addr.ip().is_multicast() && addr.port() != 0
        }
        _ => true,
    }
}

/// An error quotes its input, which may be a megabyte.
fn abridged(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

impl From<EndpointAddr> for Peer {
    fn from(addr: EndpointAddr) -> Self {
        Self { addr, tcp: None }
    }
}

impl From<EndpointId> for Peer {
    fn from(id: EndpointId) -> Self {
        Self::new(id)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.ticket())
    }
}

impl FromStr for Peer {
    type Err = PeerError;

    fn from_str(text: &str) -> Result<Self, PeerError> {
        let text = text.trim();
        if text.contains("://") {
            let uri = text
                .parse::<Uri>()
                .map_err(|_| PeerError::Id(abridged(text)))?;
            return Self::from_uri(&uri);
        }
        // None of the formats has letters that differ in case alone.
        let lower = text.to_ascii_lowercase();
        let (of_iroh, tcp) = match lower.split_once(TCP) {
            Some((of_iroh, tcp)) => (of_iroh, Some(tcp.parse::<TcpAddr>()?)),
            None => (lower.as_str(), None),
        };
        let peer = match of_iroh.parse::<EndpointId>() {
            Ok(id) => Self::new(id),
            Err(_) => EndpointTicket::decode_string(of_iroh)
                .map_err(|source| PeerError::Ticket {
                    text: abridged(text),
                    source: source.into(),
                })?
                .endpoint_addr()
                .clone()
                .into(),
        };
        Ok(Self { tcp, ..peer })
    }
}

/// Why a text, a URI or an endpoint does not name a peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The scheme is `https`.
    #[error(
        "https is not accepted: an iroh connection is encrypted and authenticated by the peers' own keys, and adding TLS \
         to it would ask for a certificate that nobody has; write iroh://<endpoint id> or http://<endpoint id>"
    )]
    Https,
    /// The scheme is unknown.
    #[error("scheme {0:?}: iroh://<endpoint id> and http://<endpoint id> are accepted")]
    Scheme(String),
    /// The host is not an endpoint id.
    #[error(
        "{0:?} is not an endpoint id: 64 hexadecimal digits or 52 base32 characters are accepted"
    )]
    Id(String),
    /// The text is neither a ticket nor an endpoint id nor a URI.
    #[error(
        "{text:?} is not a peer: a ticket (endpoint...), an endpoint id, or iroh://<endpoint id> are accepted"
    )]
    Ticket {
        /// The text, abridged.
        text: String,
        /// What the ticket's parser said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The text is not a TCP address that can be dialled.
    #[error(
        "{0:?} is not a TCP address that can be dialled: 192.0.2.1:7001, [2001:db8::1]:7001 and host.example:7001 are accepted, \
         with a port above 0 and not 0.0.0.0 or [::]"
    )]
    TcpAddr(String),
    /// The endpoint is closed.
    #[error("the endpoint is closed: bind it before asking for its address")]
    Closed,
    /// The endpoint has no dialable address.
    #[error(
        "the endpoint has no dialable address: bind it to an interface, or give it a relay and wait for it to be online"
    )]
    NotDialable,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> EndpointId {
        iroh::SecretKey::from_bytes(&[3; 32]).public()
    }

    #[test]
    fn every_spelling_names_the_same_peer() {
        for text in [
            id().to_string(),
            format!("iroh://{}", id()),
            format!("http://{}/", id()),
            Peer::new(id()).ticket(),
            format!("  {}\n", Peer::new(id()).ticket()),
        ] {
            for text in [text.to_ascii_uppercase(), text] {
                assert_eq!(text.parse::<Peer>().expect("a peer").id(), id(), "{text}");
            }
        }
    }

    #[test]
    fn a_ticket_carries_the_tcp_address() {
        let of_iroh = Peer::from(EndpointAddr::new(id()).with_ip_addr(([192, 0, 2, 1], 1).into()));
        for addr in ["db.example:7001", "192.0.2.1:7001", "[2001:db8::1]:7001"] {
            let peer = of_iroh
                .clone()
                .with_tcp(addr.parse::<TcpAddr>().expect("valid"));
            let ticket = peer.ticket();
            assert_eq!(ticket, format!("{}+tcp/{addr}", of_iroh.ticket()));
            for text in [ticket.to_ascii_uppercase(), ticket] {
                assert_eq!(text.parse::<Peer>().expect("a peer"), peer);
            }
        }
        let refused = format!("{}+tcp/db.example", of_iroh.ticket()).parse::<Peer>();
        assert!(matches!(refused, Err(PeerError::TcpAddr(addr)) if addr == "db.example"));
    }

    #[test]
    fn what_is_refused_is_named() {
        let refusal = |text: &str| text.parse::<Peer>().expect_err("refused").to_string();
        assert!(refusal("https://example.com").contains("iroh://"));
        assert!(refusal("ftp://example.com").contains("\"ftp\""));
        assert!(refusal("iroh://example.com").contains("\"example.com\""));
        assert!(refusal("endpointgarbage").contains("\"endpointgarbage\""));
        assert!(refusal("").contains("ticket"));
        assert!(refusal(&"x".repeat(1 << 20)).len() < 300);
    }

    #[test]
    fn nobody_is_told_to_dial_an_unspecified_address() {
        for (text, dialable) in [
            ("0.0.0.0:4433", false),
            ("[::]:4433", false),
            ("127.0.0.1:0", false),
            ("224.0.0.1:5353", false),
            ("127.0.0.1:4433", true),
            ("[fe80::1]:4433", true),
        ] {
            let addr = TransportAddr::Ip(text.parse().expect("an address"));
            assert_eq!(is_dialable(&addr), dialable, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = text.parse::<Peer>();
        }
    }
}
