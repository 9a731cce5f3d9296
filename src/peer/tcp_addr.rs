use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use super::{PeerError, abridged};

/// Where something listens on TCP: an address with a port, or a host name with one.
///
/// ```
/// use tower_iroh::TcpAddr;
///
/// let name: TcpAddr = "db.example:7001".parse()?;
/// assert_eq!(name.to_string(), "db.example:7001");
/// assert_eq!("[::1]:7001".parse::<TcpAddr>()?, TcpAddr::from(std::net::SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 7001))));
/// assert!("db.example".parse::<TcpAddr>().is_err());
/// assert!("0.0.0.0:7001".parse::<TcpAddr>().is_err());
/// # Ok::<(), tower_iroh::PeerError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TcpAddr(Kind);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Ip(SocketAddr),
    Name(String, u16),
}

impl TcpAddr {
    /// The addresses behind it, in the resolver's order.
    pub(crate) async fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        match &self.0 {
            Kind::Ip(addr) => Ok(vec![*addr]),
            Kind::Name(host, port) => {
                let found = tokio::net::lookup_host((host.as_str(), *port)).await?;
                Ok(found.collect())
            }
        }
    }
}

impl From<SocketAddr> for TcpAddr {
    fn from(addr: SocketAddr) -> Self {
        Self(Kind::Ip(addr))
    }
}

impl fmt::Display for TcpAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Ip(addr) => addr.fmt(f),
            Kind::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for TcpAddr {
    type Err = PeerError;

    /// Reads `192.0.2.1:7001`, `[2001:db8::1]:7001` or `host.example:7001`.
    fn from_str(text: &str) -> Result<Self, PeerError> {
        let text = text.trim();
        let refused = || PeerError::TcpAddr(abridged(text));
        if let Ok(addr) = text.parse::<SocketAddr>() {
            let dialable =
                !addr.ip().is_unspecified() && !addr.ip().is_multicast() && addr.port() != 0;
            return dialable.then(|| addr.into()).ok_or_else(refused);
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let port = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(refused)?;
        // RFC 1123, section 2.1, and the underscores that some networks have; 253 octets at most.
        let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let is_name = (1..=253).contains(&host.len()) && host.chars().all(of_name);
        if !is_name || host.parse::<IpAddr>().is_ok() {
            return Err(refused());
        }
        Ok(Self(Kind::Name(host.to_ascii_lowercase(), port)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_nobody_can_dial_is_refused_by_name() {
        for text in [
            "",
            ":7001",
            "host",
            "host:",
            "host:0",
            "host:70000",
            "0.0.0.0:7001",
            "[::]:7001",
            "127.0.0.1:0",
            "224.0.0.1:1",
            "a host:1",
            "http://host:1",
            "::1:7001",
        ] {
            let refused = text.parse::<TcpAddr>().expect_err(text).to_string();
            assert!(refused.contains(&format!("{text:?}")), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_shown_as_it_reads(text in ".{0,80}") {
            if let Ok(addr) = text.parse::<TcpAddr>() {
                prop_assert_eq!(addr.to_string().parse::<TcpAddr>().expect("an address"), addr);
            }
        }

        #[test]
        fn names_are_read(host in "[a-z][a-z0-9-]{0,20}(\\.[a-z]{1,5})?", port in 1u16..) {
            let text = format!("{host}:{port}");
            prop_assert_eq!(text.parse::<TcpAddr>().expect("an address").to_string(), text);
        }
    }
}
