use std::fmt;

/// What a peer is reached over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransportKind {
    /// iroh's QUIC.
    Iroh,
    /// TCP, with TLS 1.3 between the same identities or, where a server allows it, without.
    Tcp,
}

impl TransportKind {
    /// As metrics have it: "iroh" or "tcp".
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Iroh => "iroh",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
