//! Moves packets between the hosts' devices: one thread reads each device, one writes it.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tun_rs::SyncDevice;

use crate::{Conditions, Fate, LabError, Protocol, Shaper};

/// How long a thread that has nothing to do waits before it asks whether it should end.
const LOOK: Duration = Duration::from_millis(50);
/// How many bytes may be under way to one host. A link of 1 Gbit/s and 500 ms holds 62 MB.
pub(crate) const UNDER_WAY: usize = 128 << 20;

/// What one direction of a link has done since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that came to it.
    pub packets: u64,
    /// Their bytes, headers of IP and up included.
    pub bytes: u64,
    /// Packets it lost as its conditions say.
    pub lost: u64,
    /// Packets that found its queue full.
    pub queue_full: u64,
    /// Packets that came while it, or what they carry, was cut.
    pub cut: u64,
}

/// One direction of a link.
#[derive(Debug)]
pub(crate) struct Way {
    shaper: Mutex<Shaper>,
    packets: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    queue_full: AtomicU64,
    cut: AtomicU64,
}

impl Way {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            shaper: Mutex::new(Shaper::new(seed)),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            queue_full: AtomicU64::new(0),
            cut: AtomicU64::new(0),
        }
    }

    pub(crate) fn set(&self, conditions: Conditions) {
        lock(&self.shaper).set(conditions);
    }

    pub(crate) fn conditions(&self) -> Conditions {
        lock(&self.shaper).conditions()
    }

    /// What was counted since the last time.
    pub(crate) fn take_counts(&self) -> Counts {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        Counts {
            packets: take(&self.packets),
            bytes: take(&self.bytes),
            lost: take(&self.lost),
            queue_full: take(&self.queue_full),
            cut: take(&self.cut),
        }
    }

    /// Counts a packet that was let in and had no place on the way.
    pub(crate) fn queue_was_full(&self) {
        self.queue_full.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a packet; when it arrives, if it does.
    pub(crate) fn admit(&self, bytes: usize, protocol: Option<Protocol>) -> Option<Instant> {
        let mut shaper = lock(&self.shaper);
        let blocked = shaper.conditions().blocked;
        let fate = if blocked.is_some() && blocked == protocol {
            Fate::Cut
        } else {
            shaper.admit(Instant::now(), bytes)
        };
        drop(shaper);
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let counter = match fate {
            Fate::Arrives(due) => return Some(due),
            Fate::Lost => &self.lost,
            Fate::QueueFull => &self.queue_full,
            Fate::Cut => &self.cut,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// All hosts' devices and what is between them. Ends its threads when it is dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    /// Which host has an address.
    addresses: RwLock<HashMap<Ipv4Addr, usize>>,
    /// From each host to each.
    ways: Vec<Vec<Way>>,
    inboxes: Vec<Inbox>,
}

/// What is under way to one host.
struct Inbox {
    device: SyncDevice,
    pending: Mutex<Pending>,
    changed: Condvar,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Pending {
    /// By arrival, and in the order of coming where that is the same.
    packets: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    bytes: usize,
    number: u64,
    /// The writing thread has one in hand.
    writing: bool,
}

impl Wire {
    /// Joins the devices; host `i` has the address `addresses[i]`.
    pub(crate) fn new(
        devices: Vec<SyncDevice>,
        addresses: &[Ipv4Addr],
        seed: u64,
    ) -> Result<Self, LabError> {
        let hosts = devices.len();
        for device in &devices {
            device
                .set_nonblocking(true)
                .map_err(LabError::io("making a TUN device non-blocking"))?;
        }
        let way = |from: usize, to: usize| Way::new(seed ^ ((from * hosts + to) as u64) << 32);
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            addresses: RwLock::new(addresses.iter().copied().zip(0..).collect()),
            ways: (0..hosts)
                .map(|from| (0..hosts).map(|to| way(from, to)).collect())
                .collect(),
            inboxes: devices
                .into_iter()
                .map(|device| Inbox {
                    device,
                    pending: Mutex::default(),
                    changed: Condvar::new(),
                })
                .collect(),
        });
        let mut threads = Vec::new();
        for host in 0..hosts {
            type Work = fn(&Shared, usize);
            for (name, work) in [("read", Shared::read as Work), ("write", Shared::write)] {
                let shared = shared.clone();
                let thread = thread::Builder::new()
                    .name(format!("lab-{name}-{host}"))
                    .spawn(move || work(&shared, host))
                    .map_err(LabError::io("starting a thread"))?;
                threads.push(thread);
            }
        }
        Ok(Self { shared, threads })
    }

    pub(crate) fn way(&self, from: usize, to: usize) -> &Way {
        &self.shared.ways[from][to]
    }

    /// From now on the address is that host's.
    pub(crate) fn assign(&self, address: Ipv4Addr, host: usize) {
        let mut addresses = self
            .shared
            .addresses
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.insert(address, host);
    }

    /// From now on nobody has the address.
    pub(crate) fn unassign(&self, address: Ipv4Addr) {
        let mut addresses = self
            .shared
            .addresses
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.remove(&address);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for inbox in &self.shared.inboxes {
            inbox.changed.notify_all();
        }
        for thread in self.threads.drain(..) {
            // A panic in it was printed when it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Takes what host `from` sends and decides when it arrives where.
    fn read(&self, from: usize) {
        let device = &self.inboxes[from].device;
        let mut buffer = vec![0; 64 << 10];
        while !self.stopped() {
            match device.recv(&mut buffer) {
                Ok(bytes) => self.forward(from, &buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait_readable(device.as_fd());
                }
                Err(error) => {
                    tracing::warn!(%error, from, "reading a TUN device");
                    wait_readable(device.as_fd());
                }
            }
        }
    }

    fn forward(&self, from: usize, packet: &[u8]) {
        let Some(destination) = destination(packet) else {
            return;
        };
        let addresses = self
            .addresses
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(&to) = addresses.get(&destination) else {
            return;
        };
        drop(addresses);
        let way = &self.ways[from][to];
        let Some(due) = way.admit(packet.len(), protocol(packet)) else {
            return;
        };
        if !self.inboxes[to].put(due, packet) {
            way.queue_was_full();
        }
    }

    /// Gives host `to` what is due.
    fn write(&self, to: usize) {
        // Linux rounds a thread's waits up by 50 us unless told otherwise; if it refuses, packets are that much later.
        let _ = nix::sys::prctl::set_timerslack(1_000);
        let inbox = &self.inboxes[to];
        let mut pending = lock(&inbox.pending);
        while !self.stopped() {
            let now = Instant::now();
            let wait = match pending.packets.peek() {
                Some(Reverse((due, ..))) if *due <= now => {
                    let Some(Reverse((_, _, packet))) = pending.packets.pop() else {
                        continue;
                    };
                    pending.bytes -= packet.len();
                    pending.writing = true;
                    drop(pending);
                    inbox.deliver(&packet);
                    pending = lock(&inbox.pending);
                    pending.writing = false;
                    continue;
                }
                Some(Reverse((due, ..))) => (*due - now).min(LOOK),
                None => LOOK,
            };
            let waited = inbox.changed.wait_timeout(pending, wait);
            pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Inbox {
    /// Whether there was room.
    fn put(&self, due: Instant, packet: &[u8]) -> bool {
        let mut pending = lock(&self.pending);
        if due <= Instant::now() && pending.packets.is_empty() && !pending.writing {
            // Nobody is before it: a hand-over to another thread would only cost time. What comes after it from the same host
            // comes from this thread.
            drop(pending);
            self.deliver(packet);
            return true;
        }
        if pending.bytes + packet.len() > UNDER_WAY {
            return false;
        }
        pending.bytes += packet.len();
        let number = pending.number;
        pending.number += 1;
        let first = pending
            .packets
            .peek()
            .is_none_or(|Reverse((next, ..))| due < *next);
        pending
            .packets
            .push(Reverse((due, number, packet.to_vec())));
        drop(pending);
        if first {
            self.changed.notify_one();
        }
        true
    }

    fn deliver(&self, packet: &[u8]) {
        if let Err(error) = self.device.send(packet) {
            tracing::warn!(%error, "writing a TUN device");
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait_readable(device: BorrowedFd<'_>) {
    let mut fds = [PollFd::new(device, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO);
    // Interrupted or timed out: the caller looks again in either case.
    let _ = poll(&mut fds, timeout);
}

/// Where an IPv4 packet goes.
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let head = packet.first_chunk::<20>()?;
    (head[0] >> 4 == 4).then(|| Ipv4Addr::new(head[16], head[17], head[18], head[19]))
}

/// What an IPv4 packet carries, where it can be blocked.
fn protocol(packet: &[u8]) -> Option<Protocol> {
    match packet.first_chunk::<20>()?[9] {
        6 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_blocked_does_not_pass_and_the_rest_does() {
        let way = Way::new(0);
        let mut packet = [0; 28];
        let [tcp, udp, icmp] = [6, 17, 1].map(|number| {
            packet[9] = number;
            protocol(&packet)
        });
        way.set(Conditions {
            blocked: Some(Protocol::Udp),
            ..Conditions::default()
        });
        assert!(way.admit(28, tcp).is_some());
        assert!(way.admit(28, udp).is_none());
        assert!(way.admit(28, icmp).is_some());
        assert_eq!(way.take_counts().cut, 1);
        way.set(Conditions::default());
        assert!(way.admit(28, udp).is_some());
    }

    #[test]
    fn a_packet_says_where_it_goes() {
        let mut packet = [0; 28];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&[10, 77, 0, 2]);
        assert_eq!(destination(&packet), Some(Ipv4Addr::new(10, 77, 0, 2)));
        packet[0] = 0x60;
        assert_eq!(destination(&packet), None);
        assert_eq!(destination(&packet[..19]), None);
    }
}
