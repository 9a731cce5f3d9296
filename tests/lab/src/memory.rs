//! A network in memory, for where namespaces are not allowed: iroh's endpoints send over it as they would over UDP, and it does what a
//! link's conditions say.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, RwLock},
    task::{Context, Poll, Waker},
    time::Instant,
};

use iroh::{
    EndpointAddr, EndpointId, TransportAddr,
    endpoint::transports::{CustomEndpoint, CustomSender, CustomTransport, RecvInfo, Transmit},
};
use iroh_base::CustomAddr;
use n0_watcher::Watchable;
use noq_udp::RecvMeta;
use tokio::time::{Sleep, sleep_until};

use crate::{
    Conditions, Counts, Protocol,
    wire::{UNDER_WAY, Way, lock},
};

/// Our addresses among those of other transports: "lab".
const TRANSPORT: u64 = 0x6c_6162;
/// What IP and UDP would add to a packet.
const HEADERS: usize = 28;

/// A network in memory, whose addresses are the endpoints' ids. Between each two endpoints there is a link, as on a
/// [`Network`](crate::Network), but without a kernel: it needs no privilege, carries iroh's packets and nothing else, and is as exact
/// as tokio's timers, a millisecond.
///
/// Clones share it. An endpoint joins with [`transport`](Self::transport).
#[derive(Clone, Debug)]
pub struct Memory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    seed: u64,
    inboxes: Mutex<HashMap<EndpointId, Arc<Inbox>>>,
    /// From each to each, made when they are first asked for.
    ways: RwLock<HashMap<(EndpointId, EndpointId), Arc<Way>>>,
}

/// What is under way to one endpoint.
#[derive(Debug, Default)]
struct Inbox(Mutex<Pending>);

#[derive(Debug, Default)]
struct Pending {
    packets: BinaryHeap<Reverse<Packet>>,
    bytes: usize,
    number: u64,
    reader: Option<Waker>,
}

/// By arrival, and in the order of coming where that is the same.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    due: Instant,
    number: u64,
    from: EndpointId,
    bytes: Vec<u8>,
}

impl Memory {
    /// A network whose links pass everything at once. Their luck is the same in each run.
    pub fn new() -> Self {
        Self::with_seed(0)
    }

    /// The same with other luck.
    pub fn with_seed(seed: u64) -> Self {
        let shared = Arc::new(Shared {
            seed,
            inboxes: Mutex::default(),
            ways: RwLock::default(),
        });
        Self { shared }
    }

    /// What an endpoint with this id is built with: `builder.clear_ip_transports().add_custom_transport(..)`.
    pub fn transport(&self, id: EndpointId) -> Arc<dyn CustomTransport> {
        Arc::new(Transport {
            shared: self.shared.clone(),
            id,
        })
    }

    /// Where an endpoint is on this network.
    pub fn address(&self, id: EndpointId) -> EndpointAddr {
        EndpointAddr::from_parts(id, [TransportAddr::Custom(custom(id))])
    }

    /// Sets both directions of the link between two endpoints, from the next packet on.
    pub fn set(&self, first: EndpointId, second: EndpointId, conditions: Conditions) {
        self.shared.way(first, second).set(conditions);
        self.shared.way(second, first).set(conditions);
    }

    /// Lets nothing through any more between two endpoints; what is under way arrives.
    pub fn cut(&self, first: EndpointId, second: EndpointId) {
        self.set_cut(first, second, true);
    }

    /// Undoes [`cut`](Self::cut).
    pub fn restore(&self, first: EndpointId, second: EndpointId) {
        self.set_cut(first, second, false);
    }

    fn set_cut(&self, first: EndpointId, second: EndpointId, cut: bool) {
        for (from, to) in [(first, second), (second, first)] {
            let way = self.shared.way(from, to);
            let conditions = way.conditions();
            way.set(Conditions { cut, ..conditions });
        }
    }

    /// What was sent from one endpoint to another since it was asked last.
    pub fn take_counts(&self, from: EndpointId, to: EndpointId) -> Counts {
        self.shared.way(from, to).take_counts()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn way(&self, from: EndpointId, to: EndpointId) -> Arc<Way> {
        let known = self.ways.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(way) = known.get(&(from, to)) {
            return way.clone();
        }
        drop(known);
        let mut ways = self.ways.write().unwrap_or_else(PoisonError::into_inner);
        // By the order of their making, as ids differ from run to run.
        let seed = self.seed ^ (ways.len() as u64) << 32;
        let way = ways.entry((from, to));
        way.or_insert_with(|| Arc::new(Way::new(seed))).clone()
    }

    fn send(&self, from: EndpointId, to: EndpointId, bytes: &[u8]) {
        let Some(inbox) = lock(&self.inboxes).get(&to).cloned() else {
            // As with UDP: nobody is there, and nobody says so.
            return;
        };
        let way = self.way(from, to);
        let Some(due) = way.admit(bytes.len() + HEADERS, Some(Protocol::Udp)) else {
            return;
        };
        if !inbox.put(due, from, bytes) {
            way.queue_was_full();
        }
    }
}

impl Inbox {
    /// Whether there was room.
    fn put(&self, due: Instant, from: EndpointId, bytes: &[u8]) -> bool {
        let mut pending = lock(&self.0);
        if pending.bytes + bytes.len() > UNDER_WAY {
            return false;
        }
        pending.bytes += bytes.len();
        let number = pending.number;
        pending.number += 1;
        pending.packets.push(Reverse(Packet {
            due,
            number,
            from,
            bytes: bytes.to_vec(),
        }));
        let reader = pending.reader.take();
        drop(pending);
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }
}

fn custom(id: EndpointId) -> CustomAddr {
    CustomAddr::from_parts(TRANSPORT, id.as_bytes())
}

fn endpoint(address: &CustomAddr) -> Option<EndpointId> {
    let data = address.data().try_into().ok()?;
    let id = EndpointId::from_bytes(data).ok()?;
    (address.id() == TRANSPORT).then_some(id)
}

#[derive(Clone, Debug)]
struct Transport {
    shared: Arc<Shared>,
    id: EndpointId,
}

impl CustomTransport for Transport {
    fn bind(&self) -> io::Result<Box<dyn CustomEndpoint>> {
        let inbox = Arc::new(Inbox::default());
        lock(&self.shared.inboxes).insert(self.id, inbox.clone());
        Ok(Box::new(Bound {
            transport: self.clone(),
            addresses: Watchable::new(vec![custom(self.id)]),
            inbox,
            timer: None,
        }))
    }
}

impl CustomSender for Transport {
    fn is_valid_send_addr(&self, address: &CustomAddr) -> bool {
        address.id() == TRANSPORT
    }

    fn poll_send(
        &self,
        _: &mut Context<'_>,
        to: &CustomAddr,
        _: Option<&CustomAddr>,
        transmit: &Transmit<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(to) = endpoint(to) else {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "not an address in memory");
            return Poll::Ready(Err(error));
        };
        let contents = transmit.contents;
        let packet = transmit.segment_size.unwrap_or(contents.len()).max(1);
        for packet in contents.chunks(packet) {
            self.shared.send(self.id, to, packet);
        }
        Poll::Ready(Ok(()))
    }
}

/// An endpoint that has joined. Leaves when it is dropped.
#[derive(Debug)]
struct Bound {
    transport: Transport,
    addresses: Watchable<Vec<CustomAddr>>,
    inbox: Arc<Inbox>,
    /// While packets are under way.
    timer: Option<Pin<Box<Sleep>>>,
}

impl CustomEndpoint for Bound {
    fn watch_local_addrs(&self) -> n0_watcher::Direct<Vec<CustomAddr>> {
        self.addresses.watch()
    }

    fn create_sender(&self) -> Arc<dyn CustomSender> {
        Arc::new(self.transport.clone())
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [io::IoSliceMut<'_>],
        metas: &mut [RecvMeta],
        infos: &mut [RecvInfo],
    ) -> Poll<io::Result<usize>> {
        let mut received = 0;
        loop {
            let mut pending = lock(&self.inbox.0);
            let now = Instant::now();
            while received < buffers.len()
                && let Some(Reverse(packet)) = pending.packets.peek()
                && packet.due <= now
            {
                let Some(Reverse(packet)) = pending.packets.pop() else {
                    break;
                };
                let length = packet.bytes.len();
                pending.bytes -= length;
                // Larger than QUIC says that it takes: lost, as with UDP.
                let Some(buffer) = buffers[received].get_mut(..length) else {
                    continue;
                };
                buffer.copy_from_slice(&packet.bytes);
                metas[received].len = length;
                metas[received].stride = length;
                let local = Some(custom(self.transport.id));
                infos[received] = RecvInfo::new(custom(packet.from), local);
                received += 1;
            }
            if received > 0 || buffers.is_empty() {
                return Poll::Ready(Ok(received));
            }
            pending.reader = Some(cx.waker().clone());
            let Some(Reverse(next)) = pending.packets.peek() else {
                return Poll::Pending;
            };
            let due = next.due.into();
            drop(pending);
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            timer.as_mut().reset(due);
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let mut inboxes = lock(&self.transport.shared.inboxes);
        // Another may have joined under the same id since.
        let ours = inboxes.get(&self.transport.id);
        if ours.is_some_and(|inbox| Arc::ptr_eq(inbox, &self.inbox)) {
            inboxes.remove(&self.transport.id);
        }
    }
}
