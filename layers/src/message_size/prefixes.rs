//! Finds the messages in a gRPC body as it passes.

/// How many bytes stand before each message.
const PREFIX: usize = crate::peek::PREFIX_LEN;

/// Reads prefixes, wherever frames are cut.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Messages {
    /// Of the prefix that is being read.
    prefix: [u8; PREFIX],
    have: usize,
    /// Of the message that is being read.
    left: usize,
}

/// A message above the limit, whose prefix begins at `at` in the data that was looked at, or before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge {
    pub(crate) at: usize,
    pub(crate) len: u32,
}

impl Messages {
    /// Looks at the next bytes of the body.
    pub(crate) fn pass(&mut self, data: &[u8], max: u32) -> Result<(), TooLarge> {
        let mut at = 0;
        while at < data.len() {
            if self.left > 0 {
                let part = self.left.min(data.len() - at);
                self.left -= part;
                at += part;
                continue;
            }
            let begins = at;
            while self.have < PREFIX && at < data.len() {
                self.prefix[self.have] = data[at];
                self.have += 1;
                at += 1;
            }
            if self.have == PREFIX {
                self.have = 0;
                let [_, length @ ..] = self.prefix;
                let len = u32::from_be_bytes(length);
                if len > max {
                    return Err(TooLarge { at: begins, len });
                }
                self.left = len as usize;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(len: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(len).expect("small").to_be_bytes());
        bytes.resize(PREFIX + len, b'x');
        bytes
    }

    #[test]
    fn what_comes_before_a_message_that_is_too_large_is_not_lost() {
        let mut all = message(3);
        let first = all.len();
        all.extend(message(11));
        let mut messages = Messages::default();
        assert_eq!(
            messages.pass(&all, 10),
            Err(TooLarge { at: first, len: 11 })
        );
    }

    proptest! {
        #[test]
        fn wherever_frames_are_cut_the_first_large_one_is_found(
            lens in proptest::collection::vec(0usize..40, 0..8),
            cut in 1usize..20,
            max in 0u32..40,
        ) {
            let all: Vec<u8> = lens.iter().flat_map(|len| message(*len)).collect();
            let mut messages = Messages::default();
            let mut found = None;
            for part in all.chunks(cut) {
                if let Err(large) = messages.pass(part, max) {
                    found = Some(large.len);
                    break;
                }
            }
            let expected = lens.iter().map(|len| u32::try_from(*len).expect("small")).find(|len| *len > max);
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_bytes_pass_without_panic(data in proptest::collection::vec(any::<u8>(), 0..64), max in any::<u32>()) {
            let mut messages = Messages::default();
            for part in data.chunks(7) {
                let _ = messages.pass(part, max);
            }
        }
    }
}
