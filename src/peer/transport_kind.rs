use std::fmt;

use tower_iroh_layers::select::Arm;

/// The transport over which a peer is reached.
///
/// A [selection](tower_iroh_layers::select) calls the two its arms: [`Arm`] converts from this, and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TransportKind {
    /// iroh's QUIC.
    Iroh,
    /// TCP, with TLS 1.3 between the same identities; without TLS where a server allows that.
    Tcp,
}

impl TransportKind {
    /// Both transports.
    pub const ALL: [Self; 2] = [Self::Iroh, Self::Tcp];

    /// The names of a selection's arms, in their order.
    pub(crate) const NAMES: [&'static str; 2] = ["iroh", "tcp"];

    /// The arm of a [selection](tower_iroh_layers::select): `Choice::Prefer(TransportKind::Iroh.arm())`.
    pub const fn arm(self) -> Arm {
        match self {
            Self::Iroh => Arm::First,
            Self::Tcp => Arm::Second,
        }
    }

    /// `iroh` or `tcp`, as in metrics.
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

impl From<TransportKind> for Arm {
    fn from(transport: TransportKind) -> Self {
        transport.arm()
    }
}

impl From<Arm> for TransportKind {
    fn from(arm: Arm) -> Self {
        match arm {
            Arm::First => Self::Iroh,
            Arm::Second => Self::Tcp,
        }
    }
}
