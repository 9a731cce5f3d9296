//! The arms that live in this program. Each runs in a process of its own: the bench starts itself again with `--as-arm`.

use std::process::ExitCode;

use crate::shared::process;

mod cipher;
mod ours;
mod proxies;
mod raw;
mod tcp;
mod tls;

/// What the command line calls an arm, and what the tables say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arm {
    /// On the command line and in the JSON.
    pub name: &'static str,
    /// In the tables.
    pub title: &'static str,
    /// Whether a failure of it fails the run. Somebody else's known fault is a result, not an error.
    pub must_work: bool,
    /// Runs without being asked for.
    pub usual: bool,
}

const fn arm(name: &'static str, title: &'static str) -> Arm {
    Arm {
        name,
        title,
        must_work: true,
        usual: true,
    }
}

/// The arm in the crate of its own.
pub const TONIC_IROH_TRANSPORT: Arm = Arm {
    must_work: false,
    ..arm("tonic-iroh-transport", "tonic-iroh-transport 0.9.2")
};
/// What most users have today, and what the ratios refer to.
pub const TLS: Arm = arm("tls", "tonic, TCP+TLS 1.3");
/// Without encryption.
pub const TCP: Arm = arm("tcp", "tonic, TCP");
/// QUIC streams without HTTP/2, tuned as ours are.
pub const RAW: Arm = arm("raw", "raw iroh streams");
/// tonic's channel over our connector.
pub const CONNECTOR: Arm = arm("connector", "tonic over Connector");
/// Our own channel.
pub const CHANNEL: Arm = arm("channel", "tower-iroh Channel");
/// Our own channel with every layer left out; only when asked for.
pub const CHANNEL_BARE: Arm = Arm {
    usual: false,
    ..arm("channel-bare", "Channel, layers left out")
};
/// Raw streams with iroh's own defaults; only when asked for.
pub const RAW_UNTUNED: Arm = Arm {
    usual: false,
    ..arm("raw-untuned", "raw iroh streams, untuned")
};

/// A client and a server over TCP, with `tower-iroh gateway` and `tower-iroh expose` between them; only when asked for, with the feature `cli`.
pub const GATEWAY: Arm = Arm {
    usual: false,
    ..arm("gateway", "gateway and expose")
};
/// The same with two plain HTTP/2 proxies over TCP and TLS; only when asked for.
pub const PROXIES: Arm = Arm {
    usual: false,
    ..arm("proxies", "two plain proxies, TCP+TLS 1.3")
};

/// Every arm, in the order of the tables.
pub const ALL: [Arm; 10] = [
    TCP,
    TLS,
    RAW,
    RAW_UNTUNED,
    CONNECTOR,
    CHANNEL,
    CHANNEL_BARE,
    TONIC_IROH_TRANSPORT,
    PROXIES,
    GATEWAY,
];

/// The arm of that name.
pub fn named(name: &str) -> Option<Arm> {
    ALL.into_iter().find(|arm| arm.name == name)
}

/// Is the arm of that name until standard input ends.
pub fn be(name: &str) -> ExitCode {
    match name {
        "tcp" => process::run(tcp::start()),
        "tls" => process::run(tls::start()),
        "connector" => process::run(ours::connector()),
        "channel" => process::run(ours::channel()),
        "channel-bare" => process::run(ours::bare_channel()),
        "gateway" => process::run(proxies::ours()),
        "proxies" => process::run(proxies::plain()),
        "near-proxy" => proxies::be(false),
        "far-proxy" => proxies::be(true),
        "raw" => process::run(raw::start(raw::Tuned::AsOurs)),
        "raw-untuned" => process::run(raw::start(raw::Tuned::Not)),
        _ => {
            eprintln!("no arm {name:?} lives in this program");
            ExitCode::FAILURE
        }
    }
}
