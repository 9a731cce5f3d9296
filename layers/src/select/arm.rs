use crate::named::named;

named! {
    /// One of the two paths to a peer. [`SelectHandle::named`](super::SelectHandle::named) sets their names in metrics, spans, headers and errors.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Arm (pub ALL) {
        /// The first service of [`Select::new`](super::Select::new).
        First = "first",
        /// The second service.
        Second = "second",
    }
}

impl Arm {
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
