//! Stores copies that arrive before the reader needs them. Pure, and bounded whatever the peer sends.

use std::collections::VecDeque;

use tokio::io::ReadBuf;

/// How many bytes and how many copies are kept; the oldest is dropped first.
pub(super) const MOST_BYTES: usize = 64 * 1024;
pub(super) const MOST_COPIES: usize = 128;

/// Ranges of a stream's bytes, in the order of their arrival.
#[derive(Debug, Default)]
pub(super) struct Store {
    kept: VecDeque<Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    start: u64,
    bytes: Box<[u8]>,
    used: bool,
}

impl Kept {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes.len() as u64)
    }
}

impl Store {
    /// Stores bytes at offset `start`. Returns whether any of them are new.
    pub(super) fn insert(&mut self, start: u64, bytes: &[u8]) -> bool {
        let end = start.saturating_add(bytes.len() as u64);
        let known = |kept: &Kept| kept.start <= start && end <= kept.end();
        if bytes.len() > MOST_BYTES || self.kept.iter().any(known) {
            return false;
        }
        while self.kept.len() >= MOST_COPIES || self.bytes + bytes.len() > MOST_BYTES {
            let Some(oldest) = self.kept.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes.len();
        }
        self.bytes += bytes.len();
        self.kept.push_back(Kept {
            start,
            // The datagram is a slice of a larger receive buffer, which a reference would keep alive.
            bytes: bytes.into(),
            used: false,
        });
        true
    }

    /// How many bytes and copies are stored.
    #[cfg(any(test, fuzzing))]
    pub(super) fn kept(&self) -> (usize, usize) {
        let bytes = self.kept.iter().map(|kept| kept.bytes.len()).sum();
        assert_eq!(self.bytes, bytes, "they are counted rightly");
        (bytes, self.kept.len())
    }

    /// Moves the bytes from offset `at` on into `buf` and drops earlier bytes. Returns how many copies were used for the first time.
    pub(super) fn take(&mut self, mut at: u64, buf: &mut ReadBuf<'_>) -> u64 {
        let mut used = 0;
        while buf.remaining() > 0 {
            let covers = |kept: &&mut Kept| kept.start <= at && at < kept.end();
            let Some(kept) = self.kept.iter_mut().find(covers) else {
                break;
            };
            // Within the copy's length, which fits a usize.
            let rest = &kept.bytes[(at - kept.start) as usize..];
            let taken = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..taken]);
            at += taken as u64;
            used += u64::from(!std::mem::replace(&mut kept.used, true));
        }
        let left = &mut self.bytes;
        self.kept.retain(|kept| {
            let needed = kept.end() > at;
            if !needed {
                *left -= kept.bytes.len();
            }
            needed
        });
        used
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    #[cfg(test)]
    pub(super) fn holds(&self) -> (usize, usize) {
        let bytes = self.kept.iter().map(|kept| kept.bytes.len()).sum();
        assert_eq!(self.bytes, bytes, "the count is exact");
        (bytes, self.kept.len())
    }
}
