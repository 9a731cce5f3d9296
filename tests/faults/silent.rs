//! Peers that do not answer: no answer to the dial, or to anything after it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use iroh::{Endpoint, EndpointAddr, SecretKey};
use tokio::{net::UdpSocket, task::JoinHandle};
use tonic::Code;
use tower_iroh::{ErrorKind, Peer, State};

use crate::support::{Arm, Caller, Server, offline, on_both_arms, soon, until};

on_both_arms! {
    dial_deadline
    dial_follows_a_peer_that_moves
    call_deadline_before_the_dial_s
    a_thousand_calls_to_a_silent_peer
    a_thousand_calls_to_a_refusing_peer
    a_peer_that_connects_and_stalls_meets_the_deadline
    a_peer_that_connects_and_stalls_is_closed_by_pings
}

/// An address at which nobody answers, and what came there.
struct Silent {
    peer: Peer,
    /// When each dial's first packet came. A dial is known by the connection id that it gives its peer.
    dials: Arc<Mutex<Vec<Instant>>>,
    listening: JoinHandle<()>,
}

impl Silent {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let addr = socket.local_addr().expect("bound");
        let dials = Arc::new(Mutex::new(Vec::new()));
        let listening = tokio::spawn({
            let dials = dials.clone();
            async move {
                let mut seen = HashSet::new();
                let mut packet = [0; 2048];
                while let Ok(len) = socket.recv(&mut packet).await {
                    if let Some(id) = initial(&packet[..len])
                        && seen.insert(id.to_vec())
                    {
                        dials.lock().expect("no panic").push(Instant::now());
                    }
                }
            }
        });
        let id = SecretKey::generate().public();
        Self {
            peer: EndpointAddr::new(id).with_ip_addr(addr).into(),
            dials,
            listening,
        }
    }

    fn dials_within(&self, start: Instant, time: Duration) -> usize {
        let dials = self.dials.lock().expect("no panic");
        dials.iter().filter(|at| **at <= start + time).count()
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// The destination connection id of a QUIC version 1 Initial packet, RFC 9000 section 17.2.2.
fn initial(packet: &[u8]) -> Option<&[u8]> {
    let (first, rest) = packet.split_first()?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (len, rest) = rest.split_first()?;
    (first & 0xf0 == 0xc0 && *version == [0, 0, 0, 1])
        .then(|| rest.get(..usize::from(*len)))
        .flatten()
}

async fn dial_deadline(arm: Arm) {
    let silent = Silent::start().await;
    let (dial, wait) = (Duration::from_secs(1), Duration::from_secs(60));
    let caller = Caller::with(arm, &silent.peer, None, |links| {
        links.dial_timeout(dial).backoff(wait, wait)
    })
    .await;
    let start = Instant::now();
    let ended = soon("the dial's end", caller.kind()).await;
    let took = start.elapsed();
    assert_eq!(ended, Err((ErrorKind::DialTimeout, Code::Unavailable)));
    assert!(took >= dial && took < dial * 5, "{took:?}");
    // The next one is told at once when it may try again.
    let start = Instant::now();
    let ended = caller.echo(b"").await.expect_err("nobody is there");
    assert!(start.elapsed() < dial);
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(ended.message().contains("the next is due in"), "{ended:?}");
    assert_eq!(silent.dials_within(start, Duration::ZERO), 1);
    assert_eq!(caller.links.connections(), 0, "the slot came back");
}

/// A dial that is under way to where the peer was goes to where it is once that is said, not after the dial's time.
async fn dial_follows_a_peer_that_moves(arm: Arm) {
    let silent = Silent::start().await;
    let server = Server::start().await;
    let was = silent.peer.addr().addrs.iter().cloned();
    let was = Peer::from(EndpointAddr::from_parts(server.peer.id(), was));
    let caller = Caller::new(arm, &was).await;
    let start = Instant::now();
    let calling = tokio::spawn({
        let caller = caller.clone();
        async move { caller.echo(b"where are you?").await }
    });
    until("the dial", || {
        silent.dials_within(Instant::now(), Duration::ZERO) == 1
    })
    .await;
    caller.links.add_peer(server.peer.clone());
    let answer = soon("the answer", calling).await.expect("no panic");
    answer.expect("answered");
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

async fn call_deadline_before_the_dial_s(arm: Arm) {
    let silent = Silent::start().await;
    let (call, dial) = (Duration::from_millis(200), Duration::from_secs(2));
    let caller = Caller::with(arm, &silent.peer, None, |links| links.dial_timeout(dial)).await;
    let mut request = tonic::Request::new(Default::default());
    request.set_timeout(call);
    let start = Instant::now();
    let mut client = caller.client();
    let ended = soon("the call's end", client.echo(request)).await;
    let took = start.elapsed();
    match arm {
        Arm::Channel => {
            assert_eq!(ended.expect_err("silent").code(), Code::DeadlineExceeded);
            assert!(took >= call && took < dial, "{took:?}");
            // The dial is the pool's, and goes on without a caller until its own time is over.
            let state = caller.links.state(silent.peer.id());
            assert_eq!(*state.borrow(), State::Connecting);
            until("the slot's return", || caller.links.connections() == 0).await;
            assert!(start.elapsed() >= dial, "{:?}", start.elapsed());
            assert_eq!(*state.borrow(), State::TransientFailure);
        }
        // tonic applies a call's timeout only once it is connected: there the dial's own bound counts.
        Arm::Tonic => {
            assert_eq!(ended.expect_err("silent").code(), Code::Unavailable);
            assert!(took >= dial, "{took:?}");
        }
    }
}

/// 1000 calls at once to nobody: one dial, and the second not before the backoff.
async fn a_thousand_calls_to_a_silent_peer(arm: Arm) {
    let silent = Silent::start().await;
    let dial = Duration::from_millis(30);
    let caller = Caller::with(arm, &silent.peer, None, |links| links.dial_timeout(dial)).await;
    let start = Instant::now();
    let failed = storm(&caller, start, Duration::from_millis(100)).await;
    assert!(failed >= 1000);
    let dials = silent.dials_within(start, Duration::from_millis(100));
    assert!(dials <= 2, "{dials} dials");
    until("a dial", || {
        silent.dials_within(Instant::now(), Duration::ZERO) > 0
    })
    .await;

    // Without the pool each is a dial; so the count is known to be able to fail.
    let control = Silent::start().await;
    let dials = (0..5).map(|_| caller.endpoint.connect(control.peer.addr().clone(), b"any"));
    let counted = until("each of the control's dials", || {
        control.dials_within(Instant::now(), Duration::ZERO) == 5
    });
    tokio::select! {
        () = counted => {}
        _ = join_all(dials) => panic!("a silent peer was reached, or given up at once"),
    }
}

/// The same at a peer that refuses at once, which would take a dial per call where nobody waits between them.
async fn a_thousand_calls_to_a_refusing_peer(arm: Arm) {
    let refusing = offline().await;
    refusing.set_alpns(vec![tower_iroh::ALPN.to_vec()]);
    let dials = Arc::new(Mutex::new(Vec::new()));
    let refuse = tokio::spawn({
        let (refusing, dials) = (refusing.clone(), dials.clone());
        async move {
            while let Some(incoming) = refusing.accept().await {
                dials.lock().expect("no panic").push(Instant::now());
                incoming.refuse();
            }
        }
    });
    let peer = Peer::of(&refusing).expect("dialable");
    let caller = Caller::new(arm, &peer).await;
    let start = Instant::now();
    let failed = storm(&caller, start, Duration::from_millis(100)).await;
    assert!(failed >= 1000);
    let within = |time| {
        let dials = dials.lock().expect("no panic");
        dials.iter().filter(|at| **at <= start + time).count()
    };
    let early = within(Duration::from_millis(100));
    assert!(early <= 2, "{early} dials");
    assert!(within(start.elapsed()) > 0, "the dials are counted");

    // The control: whoever dials without a pool is counted each time.
    let before = within(start.elapsed());
    for _ in 0..5 {
        let dial = caller
            .endpoint
            .connect(peer.addr().clone(), tower_iroh::ALPN);
        assert!(soon("the refusal", dial).await.is_err());
    }
    assert!(within(start.elapsed()) >= before + 5);
    refuse.abort();
}

/// 1000 calls at once, and then call after call until the time is over; how many failed, which is all.
async fn storm(caller: &Caller, start: Instant, time: Duration) -> usize {
    let calls = (0..1000).map(|_| {
        let caller = caller.clone();
        tokio::spawn(async move {
            let mut failed = 0;
            loop {
                let status = caller.echo(b"").await.expect_err("nobody answers");
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                failed += 1;
                if start.elapsed() > time {
                    return failed;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    });
    let ended = soon("the storm's end", join_all(calls)).await;
    ended
        .into_iter()
        .map(|failed| failed.expect("no panic"))
        .sum()
}

/// A peer that completes the handshake, keeps the connection and never looks at it again.
async fn stalled_peer() -> (Endpoint, Peer, JoinHandle<()>) {
    let endpoint = offline().await;
    endpoint.set_alpns(vec![tower_iroh::ALPN.to_vec()]);
    let peer = Peer::of(&endpoint).expect("dialable");
    let stalling = tokio::spawn({
        let endpoint = endpoint.clone();
        async move {
            let mut kept = Vec::new();
            while let Some(incoming) = endpoint.accept().await {
                kept.push(incoming.await);
            }
        }
    });
    (endpoint, peer, stalling)
}

async fn a_peer_that_connects_and_stalls_meets_the_deadline(arm: Arm) {
    let (_endpoint, peer, stalling) = stalled_peer().await;
    let most = Duration::from_millis(300);
    let caller = Caller::with(arm, &peer, Some(most), |links| links).await;
    let start = Instant::now();
    let ended = soon("the call's end", caller.echo(b"")).await;
    let took = start.elapsed();
    let status = ended.expect_err("it stalls");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(took >= most && took < most * 5, "{took:?}");
    stalling.abort();
}

async fn a_peer_that_connects_and_stalls_is_closed_by_pings(arm: Arm) {
    let (_endpoint, peer, stalling) = stalled_peer().await;
    let every = Duration::from_millis(100);
    let caller = Caller::with(arm, &peer, None, |links| links.health_interval(every)).await;
    let start = Instant::now();
    let ended = soon("the call's end", caller.kind()).await;
    let took = start.elapsed();
    // We closed the connection, and it is the peer that was lost.
    assert_eq!(ended, Err((ErrorKind::Lost, Code::Unavailable)));
    // Two pings, each after an interval. A ping is given a second at least, so that a short interval closes no healthy path.
    let two_pings = (every + Duration::from_secs(1)) * 2;
    assert!(took >= two_pings && took < two_pings * 2, "{took:?}");
    until("the slot's return", || caller.links.connections() == 0).await;
    stalling.abort();
}
