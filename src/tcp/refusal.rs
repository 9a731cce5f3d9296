//! How a server refuses a TCP connection.
//!
//! A client with an iroh identity gets an empty SETTINGS frame, which must come first, and GOAWAY with 0 as the last stream (RFC 9113, sections 3.4 and 6.8). Other
//! clients would connect again at once, or report only a lost connection: each of their calls gets a status, and then the connection ends.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tonic::{Code, Status};

const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const GOAWAY: u8 = 7;
/// SETTINGS, the head of the next frame, the last stream, and the reason.
const HEAD: usize = SETTINGS.len() + 9 + 4 + 4;
/// The longest text, in bytes.
const MOST: usize = 1024;

/// How long the client has to read the refusal.
const PATIENCE: Duration = Duration::from_secs(1);

fn encode(reason: h2::Reason, text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(MOST)];
    let mut bytes = SETTINGS.to_vec();
    bytes.extend_from_slice(&(8 + text.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&[GOAWAY, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&u32::from(reason).to_be_bytes());
    bytes.extend_from_slice(text);
    bytes
}

/// Sends the refusal.
pub(super) async fn say<IO>(mut io: IO, reason: h2::Reason, text: &str)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let refusal = async {
        io.write_all(&encode(reason, text)).await?;
        close(io).await
    };
    // A client that does not read in time misses the refusal.
    let _ = timeout(PATIENCE, refusal).await;
}

/// Ends a connection, and reads until the client closes: closing with unread data would make the kernel reset the connection and discard what was sent.
async fn close<IO>(mut io: IO) -> std::io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    io.shutdown().await?;
    let mut rest = [0; 1024];
    while io.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Answers the client's calls with a status, for at most a second.
pub(super) async fn answer<IO>(mut io: IO, code: Code, text: &str)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let answers = async {
        let mut server = h2::server::Builder::new();
        let server = server.max_concurrent_streams(100);
        let mut connection = server.handshake::<_, Bytes>(&mut io).await?;
        while let Some(call) = connection.accept().await {
            let (_, mut respond) = call?;
            let answer = Status::new(code, text).into_http::<()>();
            respond.send_response(answer, true)?;
            connection.graceful_shutdown();
        }
        drop(connection);
        // What it fails with concerns nobody any more.
        let _ = close(io).await;
        Ok::<_, h2::Error>(())
    };
    // A client that makes no call in time learns nothing.
    let _ = timeout(PATIENCE, answers).await;
}

/// Looks for a refusal in the first bytes that a client receives.
#[derive(Debug, Default)]
pub(super) struct Listener {
    heard: Vec<u8>,
}

/// What the first bytes mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    NotYet,
    /// The server refuses the connection, for this reason.
    Refusal(h2::Reason, String),
    /// They are no refusal.
    Welcome,
}

impl Listener {
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Heard {
        let room = HEAD + MOST - self.heard.len();
        self.heard
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        let begins = |with: &[u8], at: usize| {
            let came = self.heard.get(at..).unwrap_or_default();
            came.iter().zip(with).all(|(came, with)| came == with)
        };
        if !begins(&SETTINGS, 0) || !begins(&[GOAWAY], SETTINGS.len() + 3) {
            return Heard::Welcome;
        }
        let Some((head, text)) = self.heard.split_at_checked(HEAD) else {
            return Heard::NotYet;
        };
        let len = u32::from_be_bytes([0, head[9], head[10], head[11]]) as usize;
        let Some(text) = text.get(..len.saturating_sub(8).min(MOST)) else {
            return Heard::NotYet;
        };
        let reason = u32::from_be_bytes([head[22], head[23], head[24], head[25]]);
        Heard::Refusal(reason.into(), String::from_utf8_lossy(text).into_owned())
    }
}

/// The first bytes that a client receives, of which the first says how they arrive in pieces. Panics if pieces mean something else than the whole.
#[cfg(any(test, fuzzing))]
pub fn farewell(data: &[u8]) {
    let Some((pieces, data)) = data.split_first() else {
        return;
    };
    let whole = Listener::default().hear(data);
    let mut listener = Listener::default();
    let mut heard = Heard::NotYet;
    for piece in data.chunks(usize::from(*pieces) + 1) {
        heard = listener.hear(piece);
        if heard != Heard::NotYet {
            break;
        }
    }
    assert_eq!(heard, whole, "{data:?}");
    assert!(listener.heard.len() <= HEAD + MOST);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_farewell_is_heard_in_pieces_and_nothing_else_is_one(
            cut in 1usize..40,
            text in ".{0,40}",
            other in proptest::collection::vec(any::<u8>(), HEAD..60),
        ) {
            let said = encode(h2::Reason::ENHANCE_YOUR_CALM, &text);
            prop_assert_eq!(said.len(), HEAD + text.len());
            let mut listener = Listener::default();
            let mut heard = Heard::NotYet;
            for piece in said.chunks(cut) {
                prop_assert_eq!(&heard, &Heard::NotYet);
                heard = listener.hear(piece);
            }
            prop_assert_eq!(heard, Heard::Refusal(h2::Reason::ENHANCE_YOUR_CALM, text));
            prop_assume!(other[..SETTINGS.len()] != SETTINGS);
            prop_assert_eq!(Listener::default().hear(&other), Heard::Welcome);
        }
    }

    #[tokio::test]
    async fn every_call_is_answered_before_the_connection_ends() {
        let (client, server) = tokio::io::duplex(4096);
        let answers = answer(server, Code::PermissionDenied, "not in the clear");
        let heard = async {
            let (requests, connection) = h2::client::handshake(client).await.expect("begun");
            let connection = tokio::spawn(connection);
            let call = async |mut requests: h2::client::SendRequest<Bytes>| {
                let request = http::Request::post("http://x/a.B/C")
                    .body(())
                    .expect("valid");
                let (response, _) = requests.send_request(request, false).expect("sent");
                response.await.expect("answered")
            };
            for head in <[_; 2]>::from(tokio::join!(call(requests.clone()), call(requests))) {
                assert_eq!(head.status(), 200);
                let status = Status::from_header_map(head.headers()).expect("trailers-only");
                assert_eq!(status.code(), Code::PermissionDenied);
                assert_eq!(status.message(), "not in the clear");
            }
            connection.await.expect("no panic").expect("ended well");
        };
        tokio::join!(answers, heard);
    }

    #[tokio::test]
    async fn h2_understands_it() {
        let (client, mut server) = tokio::io::duplex(4096);
        let said = async {
            say(&mut server, h2::Reason::ENHANCE_YOUR_CALM, "too many").await;
        };
        let heard = async {
            let (mut requests, connection) = h2::client::handshake(client).await.expect("begun");
            let connection = tokio::spawn(connection);
            let (response, _) = requests
                .send_request(http::Request::new(()), true)
                .expect("sent");
            let error = response.await.expect_err("refused");
            connection.abort();
            error
        };
        let ((), error) = tokio::join!(said, heard);
        assert!(error.is_go_away() && error.is_remote(), "{error:?}");
        assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
    }
}
