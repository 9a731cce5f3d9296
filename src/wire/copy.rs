//! A copy of some of a stream's bytes, as a QUIC datagram: stream id and offset, then the bytes.

use bytes::{Bytes, BytesMut};
use iroh::endpoint::VarInt;
use noq_proto::coding::{Decodable, Encodable};

/// How much room the two integers take at most.
const HEAD: usize = 2 * 8;

/// Bytes of a stream, sent beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamCopy {
    /// QUIC's number of the stream, which both sides know it by.
    pub(crate) stream: u64,
    /// Where the bytes stand, counted from the stream's first byte in this direction.
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
}

impl StreamCopy {
    /// The datagram.
    pub(crate) fn encode(stream: u64, offset: u64, bytes: &[u8]) -> Bytes {
        let mut datagram = BytesMut::with_capacity(HEAD + bytes.len());
        for int in [stream, offset] {
            // QUIC's own counts are below 2^62.
            let int = VarInt::from_u64(int).unwrap_or(VarInt::MAX);
            int.encode(&mut datagram);
        }
        datagram.extend_from_slice(bytes);
        datagram.freeze()
    }

    /// Reads a datagram; `None` for one that is cut short or copies nothing.
    pub(crate) fn decode(mut datagram: Bytes) -> Option<Self> {
        let stream = VarInt::decode(&mut datagram).ok()?.into_inner();
        let offset = VarInt::decode(&mut datagram).ok()?.into_inner();
        (!datagram.is_empty()).then_some(Self {
            stream,
            offset,
            bytes: datagram,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_are_the_documented_ones() {
        let datagram = StreamCopy::encode(4, 16_000, b"abc");
        let shown: Vec<_> = datagram.iter().map(|byte| format!("{byte:02x}")).collect();
        let page = include_str!("../../docs/wire.md");
        assert!(
            page.contains(&format!("`{}`", shown.join(" "))),
            "{shown:?}"
        );
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes(stream in 0u64..1 << 62, offset in 0u64..1 << 62, bytes in proptest::collection::vec(any::<u8>(), 1..100)) {
            let copy = StreamCopy::decode(StreamCopy::encode(stream, offset, &bytes)).expect("whole");
            prop_assert_eq!((copy.stream, copy.offset, &copy.bytes[..]), (stream, offset, &bytes[..]));
        }

        #[test]
        fn no_datagram_panics(datagram in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(copy) = StreamCopy::decode(datagram.into()) {
                prop_assert!(!copy.bytes.is_empty() && copy.offset < 1 << 62);
            }
        }
    }
}
