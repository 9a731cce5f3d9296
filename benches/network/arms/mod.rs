//! What is compared: tonic over TCP with TLS, and ours.

use std::{
    fmt,
    net::Ipv4Addr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tonic::{Status, body::Body};
use tower::util::BoxCloneSyncService;
use tower_iroh::{LaneConfig, Lanes, Tuning};
use tower_iroh_lab::Host;
use tower_iroh_proto::{
    echo::echo_client::EchoClient, testing::test_service_client::TestServiceClient,
};

use crate::{bed::Bed, fault::Fault};

mod counting;
pub mod ours;
mod service;
mod tcp;

pub use ours::Ours;
pub use service::Seen;
pub use tcp::{Kernel, Tcp, connect as tcp_connect};

/// Larger than the largest message that is sent.
pub const MESSAGE: usize = 64 << 20;

/// Any arm's channel.
pub type Service = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// How calls get to the other host.
#[derive(Clone, Debug)]
pub struct Arm {
    /// In the tables.
    pub name: String,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Tcp(Tcp),
    Ours(Ours),
}

/// tonic over TCP and TLS 1.3, with the kernel's congestion control on both ends' sockets, and so many channels.
pub fn tcp(control: Kernel, channels: usize) -> Arm {
    let plural = if channels == 1 { "channel" } else { "channels" };
    Arm {
        name: format!("TCP {}, {channels} {plural}", control.name()),
        kind: Kind::Tcp(Tcp { control, channels }),
    }
}

/// Our channel with its defaults.
pub fn iroh() -> Arm {
    tuned("auto", Tuning::auto(), LaneSet::Standard)
}

/// Our channel with one controller and set of lanes on both ends.
pub fn tuned(tuning_name: &str, tuning: Tuning, lanes: LaneSet) -> Arm {
    let on = match lanes {
        LaneSet::Standard => String::new(),
        other => format!(", {other}"),
    };
    Arm {
        name: format!("iroh {tuning_name}{on}"),
        kind: Kind::Ours(Ours {
            tuning,
            lanes: lanes.lanes(),
            early_data: false,
        }),
    }
}

/// The lanes that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneSet {
    Standard,
    Raft,
    One,
}

impl LaneSet {
    pub const ALL: [Self; 3] = [Self::Standard, Self::Raft, Self::One];

    pub fn lanes(self) -> Lanes {
        match self {
            Self::Standard => Lanes::standard(),
            Self::Raft => Lanes::raft(),
            Self::One => Lanes::new([LaneConfig::new(0..=7)]),
        }
    }
}

impl fmt::Display for LaneSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standard => "standard lanes",
            Self::Raft => "raft lanes",
            Self::One => "one lane",
        })
    }
}

/// A server that listens and a client that has connected.
pub struct Session {
    /// For small calls.
    pub small: EchoClient<Service>,
    /// For bulk. Over TCP with two channels it is the other one.
    pub bulk: TestServiceClient<Service>,
    /// Payload of bulk calls that has arrived, of uploads at the server and of downloads at the client.
    pub carried: Arc<AtomicU64>,
    /// What the server saw.
    pub seen: Arc<Seen>,
    end: End,
}

enum End {
    Tcp(tcp::Listening),
    Ours(Box<ours::Running>),
}

impl Session {
    /// Starts the server and connects, with a call on each channel so that all of them are up.
    pub fn start(bed: &Bed, arm: &Arm) -> Result<Self, Fault> {
        let session = match &arm.kind {
            Kind::Tcp(tcp) => tcp.start(bed)?,
            Kind::Ours(ours) => ours.start(bed)?,
        };
        let (mut small, mut bulk) = (session.small.clone(), session.bulk.clone());
        bed.client().block_on(async move {
            tokio::time::timeout(Duration::from_secs(15), async move {
                small.echo(crate::load::echo(0)).await?;
                bulk.unary_call(crate::load::upload(0)).await?;
                Ok::<_, Fault>(())
            })
            .await?
        })?;
        Ok(session)
    }

    /// Closes both sides. What is still under way is not waited for.
    pub fn end(self, bed: &Bed) {
        drop((self.small, self.bulk));
        match self.end {
            End::Tcp(listening) => listening.end(),
            End::Ours(running) => running.end(bed),
        }
    }
}

/// The cipher suite of the TCP arms, read off the wire.
pub fn cipher() -> Result<String, Fault> {
    let bed = Bed::unshaped()?;
    let tcp = Tcp {
        control: Kernel::Bbr,
        channels: 1,
    };
    let listener = tcp.listen(&bed)?;
    let suite = listener.cipher(&bed);
    listener.listening.end();
    suite
}

fn clients(
    small: Service,
    bulk: Service,
    carried: &Arc<AtomicU64>,
) -> (EchoClient<Service>, TestServiceClient<Service>) {
    let bulk = counting::Counting::responses(bulk, carried.clone());
    let bulk = TestServiceClient::new(BoxCloneSyncService::new(bulk))
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE);
    (EchoClient::new(small), bulk)
}

/// The address at which a host is reached, and a free port.
fn any_port(host: &Host) -> (Ipv4Addr, u16) {
    (host.address(), 0)
}
