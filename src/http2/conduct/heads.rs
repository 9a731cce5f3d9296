//! Finds the heads of HTTP/2's frames in a stream of bytes (RFC 9113, section 4.1). Pure, and it keeps no payload but a GOAWAY's first eight bytes.

/// What a client sends first: RFC 9113, section 3.4.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame's head, and the error code if the frame is a GOAWAY or a RST_STREAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    /// The payload's length.
    pub(super) len: usize,
    pub(super) code: Option<u32>,
}

impl Head {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

/// Reads one direction of an HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Heads {
    /// Bytes left of the preface or of a payload.
    skip: usize,
    /// The current head, and behind it what is needed of the payload.
    kept: [u8; Self::MOST],
    filled: usize,
}

impl Heads {
    const HEAD: usize = 9;
    const MOST: usize = Self::HEAD + 8;

    /// Of what a client sends: frames behind the preface.
    pub(super) fn of_client() -> Self {
        Self {
            skip: PREFACE.len(),
            kept: [0; Self::MOST],
            filled: 0,
        }
    }

    /// Of what a server sends: frames from the first byte on.
    pub(super) fn of_server() -> Self {
        Self {
            skip: 0,
            ..Self::of_client()
        }
    }

    /// Takes the bytes that follow those of the last call. `each` is called with every frame once its head, and its code, is complete.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Head)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let missing = self.needed() - self.filled;
            let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
            self.kept[self.filled..][..taken.len()].copy_from_slice(taken);
            self.filled += taken.len();
            bytes = rest;
            if self.filled == self.needed() {
                let frame = self.frame();
                self.skip = frame.len.saturating_sub(self.filled - Self::HEAD);
                self.filled = 0;
                each(frame);
            }
        }
    }

    fn len(&self) -> usize {
        u32::from_be_bytes([0, self.kept[0], self.kept[1], self.kept[2]]) as usize
    }

    /// Where the error code begins in the payload.
    fn code_at(&self) -> Option<usize> {
        match self.kept[3] {
            Head::RST_STREAM if self.len() >= 4 => Some(0),
            // Behind the last stream's id.
            Head::GOAWAY if self.len() >= 8 => Some(4),
            _ => None,
        }
    }

    fn needed(&self) -> usize {
        match self.filled < Self::HEAD {
            true => Self::HEAD,
            false => Self::HEAD + self.code_at().map_or(0, |at| at + 4),
        }
    }

    fn frame(&self) -> Head {
        let word = |at: usize| {
            let kept = &self.kept[at..][..4];
            kept.iter()
                .fold(0, |word, byte| word << 8 | u32::from(*byte))
        };
        Head {
            kind: self.kept[3],
            flags: self.kept[4],
            stream: word(5) & 0x7fff_ffff,
            len: self.len(),
            code: self.code_at().map(|at| word(Self::HEAD + at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(frames: &[Head]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in frames {
            bytes.extend_from_slice(&(frame.len as u32).to_be_bytes()[1..]);
            bytes.extend([frame.kind, frame.flags]);
            bytes.extend_from_slice(&frame.stream.to_be_bytes());
            let mut payload = vec![0xff; frame.len];
            if let Some(code) = frame.code {
                let at = if frame.kind == Head::GOAWAY { 4 } else { 0 };
                payload[at..][..4].copy_from_slice(&code.to_be_bytes());
            }
            bytes.extend(payload);
        }
        bytes
    }

    fn frame() -> impl Strategy<Value = Head> {
        let parts = (
            0..12u8,
            any::<u8>(),
            0..1u32 << 31,
            0..60usize,
            any::<u32>(),
        );
        parts.prop_map(|(kind, flags, stream, len, code)| {
            let coded = match kind {
                Head::RST_STREAM => len >= 4,
                Head::GOAWAY => len >= 8,
                _ => false,
            };
            let code = coded.then_some(code);
            Head {
                kind,
                flags,
                stream,
                len,
                code,
            }
        })
    }

    proptest! {
        #[test]
        fn each_frame_is_found_in_whatever_pieces_it_comes(
            frames in proptest::collection::vec(frame(), 0..20),
            pieces in proptest::collection::vec(1..40usize, 1..100),
        ) {
            let (bytes, mut found) = (bytes(&frames), Vec::new());
            let mut reader = Heads::of_server();
            let (mut rest, mut pieces) = (&bytes[..], pieces.iter().cycle());
            while !rest.is_empty() {
                let piece = pieces.next().map_or(1, |piece| *piece).min(rest.len());
                reader.feed(&rest[..piece], |frame| found.push(frame));
                rest = &rest[piece..];
            }
            prop_assert_eq!(found, frames);
        }
    }

    #[test]
    fn a_client_s_frames_begin_behind_its_preface() {
        let ping = Head {
            kind: 6,
            flags: 0,
            stream: 0,
            len: 8,
            code: None,
        };
        let mut sent = PREFACE.to_vec();
        sent.extend(bytes(&[ping]));
        let mut found = Vec::new();
        Heads::of_client().feed(&sent, |frame| found.push(frame));
        assert_eq!(found, [ping]);
    }
}
