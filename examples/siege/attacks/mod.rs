//! The attacks: what there are, and how one runs.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use iroh::SecretKey;
use tokio::time::timeout;
use tower_iroh::Peer;

use crate::{Error, attacker::Cost, keys};

mod connections;
mod frames;
mod handshakes;
mod http2;
mod initial;
mod streams;
mod wire;

use wire::Over;

/// An attack, by the name that `--only` takes.
#[derive(Clone, Debug)]
pub(crate) struct Attack {
    pub(crate) name: String,
    pub(crate) what: &'static str,
    /// How much memory it may make the server take, in bytes.
    pub(crate) memory: u64,
}

type Run = fn(Target) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// An attack as it is written down below.
struct Kind {
    name: &'static str,
    what: &'static str,
    run: Run,
    /// Whether it goes against each transport, which its name then ends with.
    each: bool,
    /// How much memory it may make the server take, in MiB.
    memory: u64,
}

/// Attacks: a name, whether it goes against each transport, how much memory it may cost, an asynchronous function, and what it does.
macro_rules! kinds {
    ($($name:literal $each:literal $memory:literal $run:path: $what:literal;)*) => {
        &[$(Kind { name: $name, what: $what, run: |target| Box::pin($run(target)), each: $each, memory: $memory }),*]
    };
}

const KINDS: &[Kind] = kinds! {
    "tcp-silent" false 64 handshakes::tcp_silent:
        "512 TCP connections from one address that say nothing, renewed when they are closed";
    "tcp-first-byte" false 64 handshakes::tcp_first_byte:
        "512 TCP connections from 16 addresses that send TLS's first byte and then nothing, renewed";
    "quic-initials-26" false 64 handshakes::initials_26:
        "26 forged first packets of QUIC handshakes a second, each from another address";
    "quic-initials-500" false 64 handshakes::initials_500:
        "500 forged first packets a second, each from another address";
    "quic-one-source" false 64 handshakes::initials_one_source:
        "500 forged first packets a second from one address";
    "free-keys" true 64 connections::free_keys:
        "256 connections, each with a key of its own, that open nothing";
    "one-key" true 64 connections::one_key:
        "one key that opens more connections than it may have, again and again";
    "uni-streams" false 64 streams::unidirectional:
        "8 strangers fill unidirectional streams, which the protocol does not have";
    "no-preamble" false 64 streams::no_preamble:
        "8 strangers open streams, send part of a preamble on some and fill the others";
    "full-lanes-stranger" false 64 streams::full_lanes_stranger:
        "8 strangers open 64 lanes each and send half a frame on each lane, then garbage";
    "full-lanes-insider" false 320 streams::full_lanes_insider:
        "a permitted caller with 64 lanes on each of 16 connections sends messages that nobody reads, since it reads no answer";
    "rapid-reset" true 64 http2::rapid_reset:
        "10,000 calls a second that are reset as soon as they have begun";
    "continuation" true 64 http2::continuation:
        "a header list that never ends, in CONTINUATION frames of 1 KiB";
    "settings" true 64 http2::settings: "20,000 SETTINGS frames a second";
    "pings" true 64 http2::pings: "20,000 PING frames a second";
    "header-list" true 64 http2::header_list: "calls with a header list of 1 MB each";
    "tiny-data" true 64 http2::tiny_data: "10,000 DATA frames of one byte a second";
    "window-updates" true 64 http2::window_updates:
        "a window of nothing, and 10,000 WINDOW_UPDATEs a second of one byte each";
    "never-reads" true 320 http2::never_reads:
        "1,000 calls for 6 MiB each, of which not one byte is read";
};

/// All attacks, in their order. Quickly, an attack on each transport is one on both.
pub(crate) fn all(quick: bool) -> Vec<Attack> {
    let names = |kind: &Kind| match kind.each {
        true if !quick => vec![format!("{}/quic", kind.name), format!("{}/tcp", kind.name)],
        _ => vec![kind.name.to_owned()],
    };
    KINDS
        .iter()
        .flat_map(|kind| {
            let (what, memory) = (kind.what, kind.memory << 20);
            names(kind)
                .into_iter()
                .map(move |name| Attack { name, what, memory })
        })
        .collect()
}

/// Whom an attack is on, and over what.
#[derive(Clone)]
struct Target {
    peer: Peer,
    over: Vec<Over>,
    /// Whom an attacker is that the policy permits to call.
    insider: SecretKey,
    spent: Arc<Spent>,
}

/// [`Cost`], while it grows.
#[derive(Debug, Default)]
struct Spent {
    packets: AtomicU64,
    bytes: AtomicU64,
    sockets: AtomicU64,
    ended: AtomicU64,
}

impl Spent {
    fn sent(&self, packets: u64, bytes: usize) {
        self.packets.fetch_add(packets, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    fn opened(&self) {
        self.sockets.fetch_add(1, Relaxed);
    }

    fn ended(&self) {
        self.ended.fetch_add(1, Relaxed);
    }
}

/// The attack's process: attacks until the time is over, and prints what it cost.
pub(crate) async fn run(name: &str, ticket: &str, time: Duration) -> Result<(), Error> {
    let (base, over) = match name.rsplit_once('/') {
        Some((base, "quic")) => (base, vec![Over::Quic]),
        Some((base, "tcp")) => (base, vec![Over::Tcp]),
        _ => (name, vec![Over::Quic, Over::Tcp]),
    };
    let number = KINDS.iter().position(|kind| kind.name == base);
    let number = number.ok_or_else(|| format!("no attack is called `{name}`"))?;
    let kind = &KINDS[number];
    let spent = Arc::<Spent>::default();
    let target = Target {
        peer: ticket.parse()?,
        over,
        insider: keys::insider(number as u8),
        spent: spent.clone(),
    };
    if let Ok(ended) = timeout(time, (kind.run)(target)).await {
        ended?;
        return Err(format!("{name} ended before its time").into());
    }
    let cost = Cost {
        packets: spent.packets.load(Relaxed),
        bytes: spent.bytes.load(Relaxed),
        sockets: spent.sockets.load(Relaxed),
        ended: spent.ended.load(Relaxed),
    };
    println!("{}", serde_json::to_string(&cost)?);
    Ok(())
}
