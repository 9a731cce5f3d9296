//! An error's way through h2, which copies nothing of an IO error but its kind and its text.

use std::io;

use super::{Error, ErrorKind};

/// What a carried error's text begins with; what follows is a letter for the kind, a space, and the message.
const CARRIED: &str = "tower-iroh:";

/// The kinds that the end of a lane can have, and how their texts show them.
const KINDS: [(char, ErrorKind); 6] = [
    ('F', ErrorKind::Forbidden),
    ('U', ErrorKind::Unauthenticated),
    ('E', ErrorKind::Exhausted),
    ('D', ErrorKind::Draining),
    ('C', ErrorKind::Closed),
    ('N', ErrorKind::NotAllowed),
];

impl Error {
    /// This error as an IO error, from whose text [`from_io`](Self::from_io) reads it again.
    pub(crate) fn to_io(&self, kind: io::ErrorKind) -> io::Error {
        let letter = KINDS.iter().find(|(_, kind)| *kind == self.kind());
        let letter = letter.map_or('L', |(letter, _)| *letter);
        let message = self.status().message();
        io::Error::new(kind, format!("{CARRIED}{letter} {message}"))
    }

    /// What [`to_io`](Self::to_io) wrote; of any other IO error, that the connection was lost.
    pub(crate) fn from_io(error: &io::Error) -> Self {
        let text = error.to_string();
        let carried = text
            .strip_prefix(CARRIED)
            .and_then(|text| text.split_once(' '));
        let Some((letter, message)) = carried else {
            return Self::new(ErrorKind::Lost, "the connection was lost");
        };
        let kind = KINDS.iter().find(|(known, _)| letter.starts_with(*known));
        Self::new(kind.map_or(ErrorKind::Lost, |(_, kind)| *kind), message)
    }
}
