//! Two endpoints and nothing but a link in memory between them: a delay each way, and a loss from a seed that can be set while
//! it runs. There is no other way between the two, so nothing goes around it.

#![allow(dead_code, unreachable_pub)]

use std::{
    io,
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use iroh::{
    Endpoint, EndpointAddr, RelayMode, SecretKey, TransportAddr,
    endpoint::{
        PortmapperConfig, presets,
        transports::{CustomEndpoint, CustomSender, CustomTransport, RecvInfo, Transmit},
    },
};
use iroh_base::CustomAddr;
use n0_watcher::Watchable;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, Sleep, sleep_until},
};
use tower_iroh::{Peer, Tuning};

/// An id that nobody has registered.
const TRANSPORT: u64 = 0x0074_6f77_6572;

/// What is on its way: when it arrives, and what it is.
type Packet = (Instant, Vec<u8>);

/// The link between two endpoints.
#[derive(Clone)]
pub struct Link {
    directions: [Arc<Direction>; 2],
}

#[derive(Debug)]
struct Direction {
    delay: Duration,
    /// In parts of a million.
    loss: AtomicU64,
    random: Mutex<StdRng>,
    carried: AtomicU64,
    lost: AtomicU64,
}

impl Link {
    /// Two endpoints, `delay` apart each way, and how to reach the first of them. Nothing is lost at first.
    pub async fn pair(delay: Duration, seed: u64) -> (Self, Endpoint, Peer, Endpoint) {
        let direction = |seed| {
            Arc::new(Direction {
                delay,
                loss: AtomicU64::new(0),
                random: Mutex::new(StdRng::seed_from_u64(seed)),
                carried: AtomicU64::new(0),
                lost: AtomicU64::new(0),
            })
        };
        let directions = [direction(seed), direction(seed ^ u64::MAX)];
        let (to_one, at_one) = unbounded_channel();
        let (to_two, at_two) = unbounded_channel();
        let one = End::new(1, to_two, at_one, directions[0].clone());
        let two = End::new(2, to_one, at_two, directions[1].clone());
        let addr = TransportAddr::Custom(one.addr.clone());
        let (one, two) = (one.bind().await, two.bind().await);
        let peer = Peer::from(EndpointAddr::from_parts(one.id(), [addr]));
        (Self { directions }, one, peer, two)
    }

    /// Loses so much of what is sent from now on, each way: 0.01 is one in a hundred.
    pub fn lose(&self, share: f64) {
        for direction in &self.directions {
            let parts = (share * 1e6) as u64;
            direction.loss.store(parts, Ordering::Relaxed);
        }
    }

    /// Packets that were handed to the link, and those of them that it lost.
    pub fn packets(&self) -> (u64, u64) {
        let sum = |of: fn(&Direction) -> &AtomicU64| {
            let each = self.directions.iter();
            each.map(|direction| of(direction).load(Ordering::Relaxed))
                .sum()
        };
        (sum(|it| &it.carried), sum(|it| &it.lost))
    }
}

/// One end of the link.
#[derive(Clone, Debug)]
struct End {
    addr: CustomAddr,
    other: CustomAddr,
    out: UnboundedSender<Packet>,
    arriving: Arc<Mutex<Option<UnboundedReceiver<Packet>>>>,
    direction: Arc<Direction>,
}

impl End {
    fn new(
        number: u8,
        out: UnboundedSender<Packet>,
        arriving: UnboundedReceiver<Packet>,
        direction: Arc<Direction>,
    ) -> Self {
        Self {
            addr: CustomAddr::from_parts(TRANSPORT, &[number]),
            other: CustomAddr::from_parts(TRANSPORT, &[3 - number]),
            out,
            arriving: Arc::new(Mutex::new(Some(arriving))),
            direction,
        }
    }

    async fn bind(self) -> Endpoint {
        Endpoint::builder(presets::Minimal)
            .preset(Tuning::auto())
            .secret_key(SecretKey::generate())
            .relay_mode(RelayMode::Disabled)
            .portmapper_config(PortmapperConfig::Disabled)
            .clear_ip_transports()
            .add_custom_transport(Arc::new(self))
            .bind()
            .await
            .expect("nothing to fail")
    }
}

impl CustomTransport for End {
    fn bind(&self) -> io::Result<Box<dyn CustomEndpoint>> {
        let arriving = self.arriving.lock().expect("whole").take();
        Ok(Box::new(Bound {
            local: Watchable::new(vec![self.addr.clone()]),
            arriving: arriving.ok_or(io::ErrorKind::AddrInUse)?,
            next: None,
            sleep: Box::pin(sleep_until(Instant::now())),
            end: self.clone(),
        }))
    }
}

impl CustomSender for End {
    fn is_valid_send_addr(&self, addr: &CustomAddr) -> bool {
        *addr == self.other
    }

    fn poll_send(
        &self,
        _: &mut Context<'_>,
        _: &CustomAddr,
        _: Option<&CustomAddr>,
        transmit: &Transmit<'_>,
    ) -> Poll<io::Result<()>> {
        let arrives = Instant::now() + self.direction.delay;
        let loss = self.direction.loss.load(Ordering::Relaxed);
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        for packet in transmit.contents.chunks(segment.max(1)) {
            self.direction.carried.fetch_add(1, Ordering::Relaxed);
            let mut random = self.direction.random.lock().expect("whole");
            if random.random_range(0..1_000_000) < loss {
                self.direction.lost.fetch_add(1, Ordering::Relaxed);
            } else {
                // It fails when the other end is gone, as packets do.
                let _ = self.out.send((arrives, packet.to_vec()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug)]
struct Bound {
    end: End,
    local: Watchable<Vec<CustomAddr>>,
    arriving: UnboundedReceiver<Packet>,
    next: Option<Packet>,
    sleep: Pin<Box<Sleep>>,
}

impl CustomEndpoint for Bound {
    fn watch_local_addrs(&self) -> n0_watcher::Direct<Vec<CustomAddr>> {
        self.local.watch()
    }

    fn create_sender(&self) -> Arc<dyn CustomSender> {
        Arc::new(self.end.clone())
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [io::IoSliceMut<'_>],
        metas: &mut [noq_udp::RecvMeta],
        infos: &mut [RecvInfo],
    ) -> Poll<io::Result<usize>> {
        let slots = bufs.iter_mut().zip(metas).zip(infos);
        let mut filled = 0;
        for ((buf, meta), info) in slots {
            if self.next.is_none() {
                match self.arriving.poll_recv(cx) {
                    Poll::Ready(Some(packet)) => self.next = Some(packet),
                    // Also when the other end is gone: a network does not say so.
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            let Some((arrives, _)) = &self.next else {
                break;
            };
            if *arrives > Instant::now() {
                self.sleep.as_mut().reset(*arrives);
                if self.sleep.as_mut().poll(cx).is_pending() {
                    break;
                }
            }
            let Some((_, packet)) = self.next.take() else {
                break;
            };
            let len = packet.len().min(buf.len());
            buf[..len].copy_from_slice(&packet[..len]);
            (meta.len, meta.stride) = (len, len);
            *info = RecvInfo::new(self.end.other.clone(), Some(self.end.addr.clone()));
            filled += 1;
        }
        if filled == 0 {
            Poll::Pending
        } else {
            Poll::Ready(Ok(filled))
        }
    }
}
