//! The datagrams of a peer, as bytes that anybody may send.

use bytes::Bytes;
use tokio::io::ReadBuf;

use super::store::{MOST_BYTES, MOST_COPIES, Store};
use crate::wire::StreamCopy;

/// Datagrams, each behind its length in two bytes, and after each one a read of a few bytes. Panics if more is kept than may be, or a byte is not where a copy had
/// it.
pub fn copies(mut data: &[u8]) {
    let mut store = Store::default();
    let mut known = Vec::new();
    let mut at = 0;
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (datagram, rest) = rest.split_at(length);
        data = rest;
        if let Some(copy) = StreamCopy::decode(Bytes::copy_from_slice(datagram)) {
            let again = StreamCopy::encode(copy.stream, copy.offset, &copy.bytes);
            assert_eq!(StreamCopy::decode(again).as_ref(), Some(&copy));
            store.insert(copy.offset, &copy.bytes);
            known.push(copy);
        }
        let (bytes, copies) = store.kept();
        assert!(bytes <= MOST_BYTES && copies <= MOST_COPIES);
        // The reader is where the next bytes say, but never further back.
        at = at.max(u64::from(length as u16 % 64));
        let mut buffer = [0; 32];
        let mut buffer = ReadBuf::new(&mut buffer);
        store.take(at, &mut buffer);
        for (number, byte) in buffer.filled().iter().enumerate() {
            let offset = at + number as u64;
            let said = known.iter().any(|copy| {
                let within = offset.checked_sub(copy.offset);
                within.is_some_and(|it| copy.bytes.get(it as usize) == Some(byte))
            });
            assert!(said, "byte {offset}");
        }
        at += buffer.filled().len() as u64;
    }
}
