use std::{fmt, str::FromStr};

use crate::ConfigError;

/// One of the two ways to a peer. To this layer they are words: which service stands behind which, the caller of
/// [`Select::new`](super::Select::new) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arm {
    /// The first service: QUIC, over iroh.
    Iroh,
    /// The second one: TCP.
    Tcp,
}

impl Arm {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Iroh, Self::Tcp];

    /// `iroh` or `tcp`, as in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Iroh => "iroh",
            Self::Tcp => "tcp",
        }
    }

    /// The one that this is not.
    pub const fn other(self) -> Self {
        match self {
            Self::Iroh => Self::Tcp,
            Self::Tcp => Self::Iroh,
        }
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }

    /// A set of this one alone.
    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Arm {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let mut all = Self::ALL.into_iter();
        all.find(|arm| arm.as_str() == text).ok_or_else(|| {
            ConfigError::new(
                "select.arm",
                format_args!("{text:?}"),
                "iroh or tcp is accepted",
            )
        })
    }
}
