//! One function for each thing that a stranger may send. None may panic, hang, or keep more than it says, whatever the bytes are.
//!
//! `fuzz_targets/` hands them to libFuzzer. The tests of tower-iroh run the same functions over `corpus/`, and over what a seeded mutator makes of it.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Duration, timeout},
};
use tonic::{Code, Status};
use tower_iroh::{
    Peer, Urgency,
    config::Config,
    layers::{
        authorize::{AccessPolicy, PolicyHandle},
        deadline::header,
        trace::{TRACEPARENT, TRACESTATE, TraceContext, TraceLayer},
    },
    wire::{PREAMBLE_LEN, Preamble},
};
use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};

/// A target: its name, which its corpus has too, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 11] = [
    ("preamble", preamble),
    ("copies", copies),
    ("farewell", farewell),
    ("screen", screen),
    ("peer", peer),
    ("config", config),
    ("timeout", timeout_header),
    ("priority", priority),
    ("traceparent", traceparent),
    ("status", status),
    ("acceptor", acceptor),
];

/// The first bytes of a stream: read back as they were, or refused with a text.
pub fn preamble(data: &[u8]) {
    let Some(bytes) = data.first_chunk::<PREAMBLE_LEN>() else {
        return;
    };
    match Preamble::decode(*bytes) {
        Ok(preamble) => assert_eq!(preamble.encode(), *bytes),
        Err(error) => assert!(error.to_string().starts_with("preamble")),
    }
}

/// Datagrams that copy a stream's bytes, and a reader of that stream.
pub fn copies(data: &[u8]) {
    tower_iroh::fuzzing::copies(data);
}

/// The first bytes that a client hears of a server over TCP.
pub fn farewell(data: &[u8]) {
    tower_iroh::fuzzing::farewell(data);
}

/// The bytes of a lane before the handshake is complete.
pub fn screen(data: &[u8]) {
    tower_iroh::fuzzing::screen(data);
}

/// A ticket, a URI, an endpoint id, with a TCP address behind it or not.
pub fn peer(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(uri) = text.parse::<http::Uri>()
        && let Ok(peer) = Peer::from_uri(&uri)
    {
        assert_eq!(
            Peer::from_uri(&peer.uri()).expect("our own").id(),
            peer.id()
        );
    }
    match text.parse::<Peer>() {
        Ok(peer) => {
            let again = peer.ticket().parse::<Peer>().expect("our own ticket");
            assert_eq!(again, peer, "{text:?}");
        }
        Err(error) => assert!(error.to_string().len() < 2000, "a text of {}", text.len()),
    }
}

/// A configuration, and a policy: what is accepted is shown as something that is accepted.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Config::reader().from_toml(text) {
        Ok(config) => {
            let shown = config.to_string();
            let again = Config::reader().from_toml(&shown);
            let again = again.unwrap_or_else(|error| panic!("{error}\n{shown}"));
            assert_eq!(again.to_string(), shown);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Err(error) = AccessPolicy::from_toml_with(text, tower_iroh::peer_name) {
        assert!(!error.to_string().is_empty());
    }
}

/// `grpc-timeout`.
pub fn timeout_header(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert("grpc-timeout", value);
    if let Some(timeout) = header::read(&headers) {
        header::write(&mut headers, timeout);
        let again = header::read(&headers).expect("our own");
        assert!(
            again <= timeout && again >= timeout - timeout / 1000,
            "{data:?}"
        );
    }
}

/// `priority`, in one line or several.
pub fn priority(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append("priority", value);
        }
    }
    if let Some(urgency) = Urgency::from_headers(&headers) {
        assert!(urgency <= Urgency::LOWEST);
        let value = urgency.to_string().parse().expect("a value");
        headers.insert("priority", value);
        assert_eq!(Urgency::from_headers(&headers), Some(urgency));
    }
}

/// `traceparent`, and `tracestate` in the lines behind it.
pub fn traceparent(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for (number, line) in data.split(|byte| *byte == b'\n').enumerate() {
        let name = if number == 0 { TRACEPARENT } else { TRACESTATE };
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    if let Some(context) = TraceContext::from_headers(&headers) {
        let mut written = HeaderMap::new();
        context.write(&mut written);
        assert_eq!(TraceContext::from_headers(&written), Some(context));
    }
}

/// `grpc-status`, `grpc-message` and the rest of trailers, a line for each.
pub fn status(data: &[u8]) {
    const NAMES: [&str; 4] = [
        "grpc-status",
        "grpc-message",
        "grpc-status-details-bin",
        "grpc-retry-pushback-ms",
    ];
    let mut headers = HeaderMap::new();
    for (name, line) in NAMES.into_iter().zip(data.split(|byte| *byte == b'\n')) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    tower_iroh::fuzzing::drop_unreadable(&mut headers);
    let _ = tower_iroh::layers::classify::Pushback::read(&headers);
    let _ = header::ended_by_peer(&headers, Duration::ZERO);
    let Some(status) = Status::from_header_map(&headers) else {
        return;
    };
    let again = Status::with_details(
        status.code(),
        status.message(),
        Bytes::copy_from_slice(status.details()),
    );
    if again.code() == Code::Ok {
        return;
    }
    let again = Status::from_header_map(again.into_http::<()>().headers()).expect("our own");
    assert_eq!(again.code(), status.code());
    assert_eq!(again.message(), status.message());
    assert_eq!(again.details(), status.details());
}

/// Bytes to a whole server, with HTTP/2's preface before them if the first byte is odd. It ends the connection, whatever they are.
pub fn acceptor(data: &[u8]) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    /// Virtual time: nothing in here waits for the clock.
    const MOST: Duration = Duration::from_secs(600);
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (mut io, far) = tokio::io::duplex(1 << 16);
        let policy = AccessPolicy::builder()
            .role("caller", ["*"])
            .anonymous(["caller"]);
        let policy = PolicyHandle::new(policy.build().expect("a policy"));
        let incoming = tokio_stream::once(Ok::<_, std::io::Error>(far));
        let served = tonic::transport::Server::builder()
            .layer(TraceLayer::server())
            .layer(tower_iroh::layers::deadline::ServerDeadlineLayer::new())
            .layer(tower_iroh::authorize(&policy))
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming(incoming);
        let served = tokio::spawn(served);
        let (mut reader, mut writer) = tokio::io::split(&mut io);
        let said = async {
            let preface = if first % 2 == 1 { PREFACE } else { &[] };
            // The server may end it at any moment.
            let _ = writer.write_all(preface).await;
            let _ = writer.write_all(data).await;
            let _ = writer.shutdown().await;
        };
        let heard = async {
            let mut heard = [0; 4096];
            while reader.read(&mut heard).await.is_ok_and(|read| read > 0) {}
        };
        let both = timeout(MOST, async { tokio::join!(said, heard) }).await;
        both.expect("the server ends the connection");
        served.await.expect("no panic").expect("served");
    });
}
