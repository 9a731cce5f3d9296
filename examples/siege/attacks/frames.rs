//! Frames of HTTP/2 (RFC 9113, section 4), written by hand.

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// The client's preface with empty SETTINGS.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The preface without the SETTINGS that have to follow it.
pub(super) const MAGIC: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const UNARY: &str = "/tower_iroh.echo.v1.Echo/Echo";
pub(super) const CLIENT_STREAM: &str = "/tower_iroh.echo.v1.Echo/ClientStream";
pub(super) const SERVER_STREAM: &str = "/tower_iroh.echo.v1.Echo/ServerStream";
pub(super) const BIDI: &str = "/tower_iroh.echo.v1.Echo/BidiStream";

/// A frame's head.
pub(super) fn head(length: u32, kind: u8, flags: u8, stream: u32) -> [u8; 9] {
    let [_, a, b, c] = length.to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    [a, b, c, kind, flags, d, e, f, g]
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [
        &head(payload.len() as u32, kind, flags, stream)[..],
        payload,
    ]
    .concat()
}

/// A setting: identifier and value.
pub(super) fn setting(id: u16, value: u32) -> Vec<u8> {
    let mut payload = id.to_be_bytes().to_vec();
    payload.extend(value.to_be_bytes());
    frame(SETTINGS, 0, 0, &payload)
}

pub(super) fn window_update(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

pub(super) fn reset(stream: u32) -> Vec<u8> {
    // CANCEL
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

/// A call's header list.
pub(super) fn request_block(path: &str) -> Vec<u8> {
    // From the static table: POST, http (RFC 7541, appendix A).
    let mut block = vec![0x83, 0x86];
    literal(&mut block, &[0x04], path.as_bytes());
    literal(&mut block, &[0x01], b"localhost");
    literal(&mut block, &[0x0f, 0x10], b"application/grpc");
    field(&mut block, "te", b"trailers");
    block
}

/// A literal field without indexing, with a name of its own.
pub(super) fn field(block: &mut Vec<u8>, name: &str, value: &[u8]) {
    let mut start = vec![0, name.len() as u8];
    start.extend(name.as_bytes());
    literal(block, &start, value);
}

fn literal(block: &mut Vec<u8>, start: &[u8], value: &[u8]) {
    block.extend(start);
    // An integer with a prefix of seven bits (RFC 7541, section 5.1).
    if value.len() < 127 {
        block.push(value.len() as u8);
    } else {
        block.push(127);
        let mut rest = value.len() - 127;
        while rest >= 128 {
            block.push((rest % 128 + 128) as u8);
            rest /= 128;
        }
        block.push(rest as u8);
    }
    block.extend(value);
}

/// A call's HEADERS, which may be all of the call.
pub(super) fn request(stream: u32, path: &str, ends: bool) -> Vec<u8> {
    let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
    frame(HEADERS, flags, stream, &request_block(path))
}

/// A gRPC message of an `EchoRequest`.
pub(super) fn message(payload: &[u8]) -> Vec<u8> {
    let mut proto = vec![0x0a];
    varint(&mut proto, payload.len() as u32);
    proto.extend(payload);
    prefixed(&proto)
}

/// A call for `count` messages of `size` bytes: HEADERS and DATA.
pub(super) fn wants(stream: u32, count: u32, size: u32) -> Vec<u8> {
    let mut proto = vec![0x08];
    varint(&mut proto, count);
    proto.push(0x10);
    varint(&mut proto, size);
    let mut frames = request(stream, SERVER_STREAM, false);
    frames.extend(frame(DATA, END_STREAM, stream, &prefixed(&proto)));
    frames
}

fn prefixed(proto: &[u8]) -> Vec<u8> {
    let mut message = vec![0];
    message.extend((proto.len() as u32).to_be_bytes());
    message.extend(proto);
    message
}

fn varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 128 {
        out.push((value % 128 + 128) as u8);
        value /= 128;
    }
    out.push(value as u8);
}
