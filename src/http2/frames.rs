//! Finds the frames in the bytes of an HTTP/2 connection: by their nine-byte heads (RFC 9113, section 4.1). Pure, and it keeps eight bytes of a payload.

/// What a client sends first: RFC 9113, section 3.4.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Follows one direction of a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frames {
    /// Bytes left of the preface or of a frame's payload.
    left: usize,
    head: [u8; 9],
    filled: usize,
    /// The first bytes of the payload.
    kept: [u8; 8],
    kept_len: usize,
}

/// A frame's head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) kind: u8,
    flags: u8,
    pub(crate) stream: u32,
    pub(crate) is_empty: bool,
    /// The error code, if the frame is a GOAWAY.
    pub(crate) code: Option<u32>,
}

impl Head {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;

    /// Whether the frame is the last of its sender's on its stream.
    pub(crate) fn ends_stream(self) -> bool {
        const END_STREAM: u8 = 1;
        matches!(self.kind, Self::DATA | Self::HEADERS) && self.flags & END_STREAM != 0
    }

    /// Whether the frame is part of a block of headers.
    pub(crate) fn is_block(self) -> bool {
        matches!(self.kind, Self::HEADERS | Self::CONTINUATION)
    }

    /// Whether the frame is the last of a block of headers.
    pub(crate) fn ends_block(self) -> bool {
        const END_HEADERS: u8 = 4;
        self.is_block() && self.flags & END_HEADERS != 0
    }
}

impl Frames {
    /// Follows what a client sends.
    pub(crate) fn of_client() -> Self {
        Self {
            left: PREFACE.len(),
            ..Self::default()
        }
    }

    /// Whether some of the payload of a frame of this kind has come, and not yet all.
    pub(crate) fn is_within(&self, kind: u8) -> bool {
        self.filled == self.head.len() && self.head[3] == kind && self.kept_len > 0
    }

    /// Whether the next byte begins a frame.
    pub(crate) fn is_between(&self) -> bool {
        self.left == 0 && self.filled == 0
    }

    /// How many of these bytes, which follow those of the last call, belong to the current frame: all, if it does not end within them. With its head, if it does.
    pub(crate) fn next_part(&mut self, bytes: &[u8]) -> (usize, Option<Head>) {
        let mut part = 0;
        // The preface has no head.
        let mut is_frame = self.filled == self.head.len();
        while part < bytes.len() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len() - part);
                let kept = taken.min(self.kept.len() - self.kept_len);
                self.kept[self.kept_len..][..kept].copy_from_slice(&bytes[part..][..kept]);
                self.kept_len += kept;
                self.left -= taken;
                part += taken;
            } else {
                let taken = (self.head.len() - self.filled).min(bytes.len() - part);
                self.head[self.filled..][..taken].copy_from_slice(&bytes[part..][..taken]);
                self.filled += taken;
                part += taken;
                if self.filled < self.head.len() {
                    break;
                }
                let [a, b, c, ..] = self.head;
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
                self.kept_len = 0;
                is_frame = true;
            }
            if self.left == 0 {
                self.filled = 0;
                return (part, is_frame.then(|| self.ended()));
            }
        }
        (part, None)
    }

    fn ended(&self) -> Head {
        let [_, _, _, kind, flags, a, b, c, d] = self.head;
        // Behind the last stream's id.
        let [.., e, f, g, h] = self.kept;
        let has_code = kind == Head::GOAWAY && self.kept_len == self.kept.len();
        Head {
            kind,
            flags,
            // The first bit is reserved.
            stream: u32::from_be_bytes([a & 0x7f, b, c, d]),
            is_empty: self.kept_len == 0,
            code: has_code.then(|| u32::from_be_bytes([e, f, g, h])),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_frame_is_found_however_the_bytes_are_cut(
            frames in proptest::collection::vec((0..12u8, any::<u8>(), 0..u32::MAX >> 1, 0..40usize), 0..20),
            cut in 1..60usize,
        ) {
            let mut bytes = PREFACE.to_vec();
            for (kind, flags, stream, len) in &frames {
                bytes.extend_from_slice(&[0, 0, *len as u8, *kind, *flags]);
                bytes.extend_from_slice(&stream.to_be_bytes());
                bytes.resize(bytes.len() + len, 0xff);
            }
            let mut reader = Frames::of_client();
            let mut found = Vec::new();
            for piece in bytes.chunks(cut) {
                let mut at = 0;
                while at < piece.len() {
                    let (part, ended) = reader.next_part(&piece[at..]);
                    prop_assert!(part > 0);
                    at += part;
                    found.extend(ended.map(|head| (head.kind, head.flags, head.stream, head.is_empty, head.code)));
                }
            }
            prop_assert!(reader.is_between());
            let code = |kind, len| (kind == Head::GOAWAY && len >= 8).then_some(u32::MAX);
            let sent: Vec<_> = frames.iter().map(|(kind, flags, stream, len)| (*kind, *flags, *stream, *len == 0, code(*kind, *len))).collect();
            prop_assert_eq!(found, sent);
        }
    }
}
