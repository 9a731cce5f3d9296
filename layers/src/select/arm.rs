use std::fmt;

/// One of the two paths to a peer. [`SelectHandle::named`](super::SelectHandle::named) sets their names in metrics, spans, headers and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arm {
    /// The first service of [`Select::new`](super::Select::new).
    First,
    /// The second service.
    Second,
}

impl Arm {
    /// Both.
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    /// `first` or `second`: its name unless names are set.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
        }
    }

    /// The other arm.
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
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
