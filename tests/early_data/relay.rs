//! Somebody on the way between a client and a server: forwards datagrams, records them, holds them back, and delivers them again.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{net::UdpSocket, sync::watch};
use tokio_util::task::AbortOnDropHandle;

use crate::packets::{Kind, kinds};

/// What becomes of the client's datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Open for what a client sends before it has heard of the server, and shut for the end of its handshake and all that follows. It hears of the
    /// server when it has sent two datagrams, so that it has the time to say what it has to say.
    FirstFlight,
    /// Recorded, and not forwarded.
    Shut,
}

/// The client's side is IPv6 and the server's IPv4, so that the two find no other way.
pub struct Relay {
    pub addr: SocketAddr,
    server: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    way: Mutex<Way>,
    /// Where the server's datagrams come in, replaced for each source that the server is to see.
    upstream: watch::Sender<Arc<UdpSocket>>,
    recorded: watch::Sender<Vec<Vec<u8>>>,
    /// Whether what the server says reaches the client now or later.
    holds_answers: watch::Sender<bool>,
}

impl Shared {
    /// Whether what the server says is to wait.
    fn holds(&self) -> bool {
        let first = *self.way.lock().expect("no panic") == Way::FirstFlight;
        (first && self.recorded.borrow().len() < 2) || *self.holds_answers.borrow()
    }

    fn forwards(&self, datagram: &[u8]) -> bool {
        match *self.way.lock().expect("no panic") {
            Way::Open => true,
            Way::Shut => false,
            Way::FirstFlight => is_first_flight(datagram),
        }
    }
}

/// Whether a datagram has nothing that needs the server's answer.
fn is_first_flight(datagram: &[u8]) -> bool {
    let kinds = kinds(datagram);
    let early = |kind: &Kind| matches!(kind, Kind::Initial | Kind::ZeroRtt);
    !kinds.is_empty() && kinds.iter().all(early)
}

pub async fn source(server: SocketAddr) -> Arc<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let socket = socket.expect("a free port");
    socket.connect(server).await.expect("an address");
    Arc::new(socket)
}

impl Relay {
    pub async fn to(server: SocketAddr) -> Self {
        let front = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await;
        let front = front.expect("these tests need the address ::1");
        let addr = front.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            way: Mutex::new(Way::Open),
            upstream: watch::Sender::new(source(server).await),
            recorded: watch::Sender::new(Vec::new()),
            holds_answers: watch::Sender::new(false),
        });
        let task = tokio::spawn(run(front, shared.clone()));
        Self {
            addr,
            server,
            shared,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// From now on the client's datagrams come to the server from another address, of which nothing has been recorded.
    pub async fn anew(&self, way: Way) {
        self.set(Way::Shut);
        let upstream = source(self.server).await;
        self.shared.upstream.send_replace(upstream);
        self.shared.recorded.send_replace(Vec::new());
        self.set(way);
    }

    /// Keeps what the server says, until it is to reach the client.
    pub fn hold_answers(&self, hold: bool) {
        self.shared.holds_answers.send_replace(hold);
    }

    pub fn set(&self, way: Way) {
        *self.shared.way.lock().expect("no panic") = way;
    }

    /// How many datagrams with early data the client has sent.
    pub fn early_datagrams(&self) -> usize {
        let recorded = self.shared.recorded.borrow();
        let early = |datagram: &&Vec<u8>| kinds(datagram).contains(&Kind::ZeroRtt);
        recorded.iter().filter(early).count()
    }

    /// Delivers datagrams as if the client had sent them just now.
    pub async fn deliver(&self, datagrams: &[Vec<u8>]) {
        let upstream = self.shared.upstream.borrow().clone();
        for datagram in datagrams {
            let _ = upstream.send(datagram).await;
        }
    }

    /// The client's first flight, once it is so many datagrams. The last words of an earlier connection may come in between, and are left out.
    pub async fn recorded(&self, datagrams: usize) -> Vec<Vec<u8>> {
        let first = |recorded: &Vec<Vec<u8>>| {
            let first = recorded.iter().filter(|it| is_first_flight(it));
            first.cloned().collect::<Vec<_>>()
        };
        let mut recorded = self.shared.recorded.subscribe();
        let enough = recorded.wait_for(|recorded| first(recorded).len() >= datagrams);
        let recorded = super::support::soon("the client's datagrams", enough).await;
        first(&recorded.expect("held by self"))
    }
}

async fn run(front: UdpSocket, shared: Arc<Shared>) {
    let mut upstream = shared.upstream.subscribe();
    let mut holds_answers = shared.holds_answers.subscribe();
    let (mut client, mut held) = (None, Vec::new());
    let (mut from_client, mut from_server) = (vec![0; 65536], vec![0; 65536]);
    loop {
        let socket = upstream.borrow_and_update().clone();
        tokio::select! {
            received = front.recv_from(&mut from_client) => {
                let Ok((len, addr)) = received else { continue };
                client = Some(addr);
                let datagram = &from_client[..len];
                shared.recorded.send_modify(|recorded| recorded.push(datagram.to_vec()));
                if shared.forwards(datagram) {
                    let _ = socket.send(datagram).await;
                }
            }
            received = socket.recv(&mut from_server) => {
                // An error is the server's port that is closed.
                let Ok(len) = received else { continue };
                held.push(from_server[..len].to_vec());
            }
            _ = upstream.changed() => {}
            _ = holds_answers.changed() => {}
        }
        if let (Some(client), false) = (client, shared.holds()) {
            for datagram in held.drain(..) {
                let _ = front.send_to(&datagram, client).await;
            }
        }
    }
}
