//! `tower-iroh ticket`: reads a ticket, and makes shorter ones of it.

use clap::Args;
use iroh::{EndpointAddr, TransportAddr};
use serde_json::json;
use tower_iroh::Peer;

use crate::{
    failure::Failure,
    print,
    target::{Names, Target},
};

/// Read a ticket, or make a shorter one of it
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tower-iroh ticket TICKET\n  tower-iroh ticket --short TICKET   # the id and the relay, without addresses that change"
)]
pub(crate) struct Options {
    /// A ticket, an endpoint id, or a name from the configuration.
    peer: String,
    /// Print a ticket with the relay alone; where there is none, with the id alone.
    #[arg(long)]
    short: bool,
    #[command(flatten)]
    names: Names,
}

pub(crate) async fn run(options: Options, json: bool) -> Result<(), Failure> {
    let names = options.names.load()?;
    let peer = match Target::read(&options.peer, names.as_deref())? {
        Target::Peer(peer) => peer,
        Target::Server(server) => {
            let message = format!("`{server}` has no key, so there is no ticket for it");
            return Err(Failure::usage(message));
        }
    };
    if options.short {
        let relays = peer.addr().addrs.iter().filter(|addr| addr.is_relay());
        let short = Peer::from(EndpointAddr::from_parts(peer.id(), relays.cloned())).ticket();
        return match json {
            true => print::line(json!({ "ticket": short })),
            false => print::line(short),
        };
    }
    let addrs = || peer.addr().addrs.iter();
    let ips: Vec<_> = addrs().filter_map(ip).collect();
    let relays: Vec<_> = addrs().filter_map(relay).collect();
    let tcp = peer.tcp().map(ToString::to_string);
    let id = peer.id();
    if json {
        let parts = json!({
            "id": id.to_string(), "z32": id.to_z32(), "addresses": ips, "relays": relays, "tcp": tcp, "ticket": peer.ticket(),
        });
        return print::line(parts);
    }
    let named = |name, values: Vec<String>| values.into_iter().map(move |value| (name, value));
    let lines = named("id", vec![id.to_string()])
        .chain(named("address", ips))
        .chain(named("relay", relays))
        .chain(named("tcp", tcp.into_iter().collect()));
    for (name, value) in lines {
        print::line(format_args!("{name:<8} {value}"))?;
    }
    Ok(())
}

fn ip(addr: &TransportAddr) -> Option<String> {
    match addr {
        TransportAddr::Ip(addr) => Some(addr.to_string()),
        _ => None,
    }
}

fn relay(addr: &TransportAddr) -> Option<String> {
    match addr {
        TransportAddr::Relay(url) => Some(url.to_string()),
        _ => None,
    }
}
