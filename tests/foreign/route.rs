//! From a client to the server.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
};

use iroh::SecretKey;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::program::program;

/// Where everything is that is on one machine.
pub const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// How a client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nobody is between them: the control.
    Direct,
    /// The client calls the gateway's address.
    Gateway,
    /// The client calls the peer by its name, and has the gateway as `grpc_proxy`.
    Proxy,
}

impl Way {
    pub const ALL: [Way; 3] = [Way::Direct, Way::Gateway, Way::Proxy];

    pub fn name(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Gateway => "gateway",
            Way::Proxy => "proxy",
        }
    }
}

/// A way that is laid.
pub struct Route {
    /// What the client is told to call.
    pub target: String,
    proxy: Option<SocketAddr>,
    // The fields below end with the route.
    peer: Option<Exposed>,
    gateway: Option<Child>,
}

impl Route {
    pub async fn lay(way: Way, server: SocketAddr) -> Self {
        if way == Way::Direct {
            return Self {
                target: server.to_string(),
                proxy: None,
                peer: None,
                gateway: None,
            };
        }
        let peer = Exposed::start(server, LOCAL).await;
        Self::gateway(way, peer, LOCAL, None).await
    }

    /// A gateway that calls the peer from this address. It answers to pages of this origin.
    pub async fn gateway(way: Way, peer: Exposed, from: Ipv4Addr, origin: Option<&str>) -> Self {
        let named = format!("db={}", peer.ticket);
        let nobody = format!("nobody={}", SecretKey::generate().public());
        let mut args = vec!["gateway", "--listen", "127.0.0.1:0", "--peer", &named];
        if way == Way::Proxy {
            // The only peer would be that of every call. A second one, which does not exist, makes the name count.
            args.extend(["--peer", &nobody]);
        }
        if let Some(origin) = origin {
            args.extend(["--cors-origin", origin]);
        }
        let (gateway, addr) = start(&args, from).await;
        let proxy = (way == Way::Proxy).then(|| addr.parse().expect("an address"));
        Self {
            target: match way {
                Way::Proxy => "dns:///db.iroh:443".to_owned(),
                _ => addr,
            },
            proxy,
            peer: Some(peer),
            gateway: Some(gateway),
        }
    }

    /// Tells the client of the proxy as a user would, and of no other.
    pub fn set_proxy(&self, client: &mut Command) {
        for name in [
            "grpc_proxy",
            "https_proxy",
            "http_proxy",
            "no_grpc_proxy",
            "no_proxy",
        ] {
            client.env_remove(name).env_remove(name.to_uppercase());
        }
        if let Some(proxy) = self.proxy {
            client.env("grpc_proxy", format!("http://{proxy}"));
        }
    }

    /// Stops the gateway: its kernel still takes what comes, and nothing is answered.
    pub fn stop_gateway(&self) {
        let gateway = self.gateway.as_ref().and_then(Child::id);
        let process = gateway.expect("a way with a gateway");
        crate::signal("STOP", &process.to_string());
    }

    /// Kills the peer that the gateway calls, as a crash would.
    pub async fn kill_peer(&mut self) {
        let peer = self.peer.as_mut().expect("a way with a peer");
        peer.program.kill().await.expect("it runs");
    }
}

/// The program in front of the server.
pub struct Exposed {
    program: Child,
    ticket: String,
}

impl Exposed {
    /// It listens on this address of its host.
    pub async fn start(server: SocketAddr, at: Ipv4Addr) -> Self {
        let args = ["expose", &server.to_string(), "--allow-all"];
        let (program, ticket) = start(&args, at).await;
        Self { program, ticket }
    }
}

/// The program without relays, and the line that it prints once it is ready. Its standard error is the test's.
async fn start(args: &[&str], at: Ipv4Addr) -> (Child, String) {
    let bind = format!("{at}:0");
    let network = ["--bind", &bind, "--relay", "disabled"];
    let mut child = program(args.iter().chain(&network))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = lines.next_line().await.expect("readable");
    let line = line.unwrap_or_else(|| panic!("{args:?} ended before it was ready"));
    (child, line)
}
