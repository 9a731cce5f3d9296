//! As much of QUIC's packets as anybody on the way can read: RFC 9000, section 17.2.

/// What is in the clear of a packet's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Initial,
    ZeroRtt,
    Handshake,
    Retry,
    OneRtt,
}

/// The packets of a datagram. What is not understood ends it.
pub fn kinds(datagram: &[u8]) -> Vec<Kind> {
    let mut kinds = Vec::new();
    let mut rest = datagram;
    while let Some((kind, after)) = next(rest) {
        kinds.push(kind);
        rest = after;
    }
    kinds
}

fn next(packet: &[u8]) -> Option<(Kind, &[u8])> {
    let (first, rest) = packet.split_first()?;
    if first & 0x80 == 0 {
        return Some((Kind::OneRtt, &[]));
    }
    let rest = rest.get(4..)?;
    let rest = skip(rest)?;
    let rest = skip(rest)?;
    let (kind, rest) = match (first >> 4) & 3 {
        0 => {
            let (token, rest) = varint(rest)?;
            (Kind::Initial, rest.get(token..)?)
        }
        1 => (Kind::ZeroRtt, rest),
        2 => (Kind::Handshake, rest),
        _ => return Some((Kind::Retry, &[])),
    };
    let (len, rest) = varint(rest)?;
    Some((kind, rest.get(len..)?))
}

/// A connection id behind its length.
fn skip(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = bytes.split_first()?;
    rest.get(usize::from(*len)..)
}

/// RFC 9000, section 16.
fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let first = *bytes.first()?;
    let (bytes, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    let value = bytes[1..]
        .iter()
        .fold(u64::from(first & 0x3f), |value, byte| {
            (value << 8) | u64::from(*byte)
        });
    Some((usize::try_from(value).ok()?, rest))
}
