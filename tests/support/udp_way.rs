//! A way between two UDP sockets of this machine that can be cut, delayed and made lossy while packets go over it.
//!
//! It stands at an address that never changes and forwards to wherever the target is at the moment, as a NAT does: each
//! source gets a socket of its own towards the target, and loses it after a quiet while. The soak (`examples/soak`) uses it too.
//!
//! iroh looks for a shorter way by itself, and on one machine it would find one. So the target binds to [`beyond`] and the other
//! side to [`near`]: to subnets of 127.0.0.0/8 from which iroh does not send to the other. Linux has all of that network.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use iroh::endpoint::{BindOpts, Builder, InvalidSocketAddr};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    net::UdpSocket,
    task::{AbortHandle, JoinHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};

/// The largest datagram that UDP has.
const LARGEST: usize = 65_535;
/// So many datagrams wait in each direction at the most; one more is lost, as in a router.
const QUEUE: usize = 4096;
/// So many sources at a time; the datagrams of others are lost.
const SOURCES: usize = 64;
/// A source that sends nothing for so long loses its socket, and gets a new one with its next datagram.
const QUIET: Duration = Duration::from_secs(20);

/// Where clients are.
const NEAR: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Where targets are.
const BEYOND: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);

/// Binds an endpoint on this side of any way.
///
/// # Errors
/// None, as the address is valid.
pub fn near(builder: Builder) -> Result<Builder, InvalidSocketAddr> {
    bound(builder, NEAR)
}

/// Binds an endpoint that can be reached by a way alone.
///
/// # Errors
/// None, as the address is valid.
pub fn beyond(builder: Builder) -> Result<Builder, InvalidSocketAddr> {
    bound(builder, BEYOND)
}

fn bound(builder: Builder, at: Ipv4Addr) -> Result<Builder, InvalidSocketAddr> {
    let opts = BindOpts::default()
        .set_prefix_len(24)
        .set_is_default_route(false);
    let builder = builder.clear_ip_transports();
    builder.bind_addr_with_opts((at, 0), opts)
}

/// What happens to the datagrams, in either direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// Nothing passes.
    pub cut: bool,
    /// The part that is lost, 0 to 1.
    pub loss: f64,
    /// How much later each one arrives.
    pub delay: Duration,
}

/// The way. Dropped, it ends with everything on it.
#[derive(Debug)]
pub struct UdpWay {
    shared: Arc<Shared>,
    addr: SocketAddr,
    forwarding: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    forwarded: AtomicU64,
    lost: AtomicU64,
}

#[derive(Debug)]
struct State {
    weather: Weather,
    target: SocketAddr,
    rng: SmallRng,
}

impl UdpWay {
    /// A way from a free port of this side to `target`. The seed decides what is lost.
    pub async fn to(target: SocketAddr, seed: u64) -> io::Result<Self> {
        let socket = UdpSocket::bind((NEAR, 0)).await?;
        let addr = socket.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                weather: Weather::default(),
                target,
                rng: SmallRng::seed_from_u64(seed),
            }),
            forwarded: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let forwarding = tokio::spawn(forward(Arc::new(socket), shared.clone()));
        Ok(Self {
            shared,
            addr,
            forwarding,
        })
    }

    /// Where datagrams for the target are to be sent.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Leads to another socket from now on.
    pub fn lead_to(&self, target: SocketAddr) {
        self.shared.state().target = target;
    }

    pub fn set(&self, weather: Weather) {
        self.shared.state().weather = weather;
    }

    pub fn forwarded(&self) -> u64 {
        self.shared.forwarded.load(Ordering::Relaxed)
    }

    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for UdpWay {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a datagram that comes now arrives; `None` for never.
    fn arrival(&self) -> Option<Instant> {
        let mut state = self.state();
        let Weather { cut, loss, delay } = state.weather;
        let lost = cut || (loss > 0.0 && state.rng.random_bool(loss.min(1.0)));
        (!lost).then(|| Instant::now() + delay)
    }
}

/// Datagrams that are on their way in one direction.
struct Queue {
    shared: Arc<Shared>,
    waiting: VecDeque<(Instant, Vec<u8>)>,
}

impl Queue {
    fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: shared.clone(),
            waiting: VecDeque::new(),
        }
    }

    fn push(&mut self, datagram: &[u8]) {
        match self.shared.arrival() {
            Some(at) if self.waiting.len() < QUEUE => {
                self.waiting.push_back((at, datagram.to_vec()));
            }
            _ => {
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The next that has arrived. Cancel safe.
    async fn arrived(&mut self) -> Vec<u8> {
        match self.waiting.front() {
            // In the order in which they came, also where the delay became shorter meanwhile.
            Some((at, _)) => sleep_until(*at).await,
            None => std::future::pending().await,
        }
        self.shared.forwarded.fetch_add(1, Ordering::Relaxed);
        self.waiting.pop_front().map(|it| it.1).unwrap_or_default()
    }
}

/// Takes what comes from the sources, and keeps a socket and a task for each.
async fn forward(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut sources = HashMap::<SocketAddr, Source>::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; LARGEST];
    loop {
        // On Linux the answer of a port that nobody has is an error here, and is no end of ours.
        let received = socket.recv_from(&mut buffer).await;
        while tasks.try_join_next().is_some() {}
        sources.retain(|_, source| !source.task.is_finished());
        let Ok((len, from)) = received else {
            continue;
        };
        if !sources.contains_key(&from) && sources.len() < SOURCES {
            let Ok(onwards) = UdpSocket::bind((BEYOND, 0)).await else {
                continue;
            };
            let (inbox, datagrams) = tokio::sync::mpsc::channel(QUEUE);
            let serving = serve(onwards, datagrams, socket.clone(), from, shared.clone());
            let task = tasks.spawn(serving);
            sources.insert(from, Source { inbox, task });
        }
        let taken = sources
            .get(&from)
            .is_some_and(|source| source.inbox.try_send(buffer[..len].to_vec()).is_ok());
        if !taken {
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Source {
    inbox: tokio::sync::mpsc::Sender<Vec<u8>>,
    task: AbortHandle,
}

/// Both directions of one source.
async fn serve(
    onwards: UdpSocket,
    mut datagrams: tokio::sync::mpsc::Receiver<Vec<u8>>,
    back: Arc<UdpSocket>,
    source: SocketAddr,
    shared: Arc<Shared>,
) {
    let (mut there, mut here) = (Queue::new(&shared), Queue::new(&shared));
    let mut buffer = vec![0; LARGEST];
    loop {
        // What fails to be sent is lost, as UDP has it: nobody may be there, or not yet.
        let step = async {
            tokio::select! {
                datagram = datagrams.recv() => match datagram {
                    Some(datagram) => there.push(&datagram),
                    None => return false,
                },
                received = onwards.recv_from(&mut buffer) => {
                    if let Ok((len, _)) = received {
                        here.push(&buffer[..len]);
                    }
                }
                datagram = there.arrived() => {
                    let target = shared.state().target;
                    let _ = onwards.send_to(&datagram, target).await;
                }
                datagram = here.arrived() => {
                    let _ = back.send_to(&datagram, source).await;
                }
            }
            true
        };
        if !timeout(QUIET, step).await.unwrap_or(false) {
            return;
        }
    }
}
