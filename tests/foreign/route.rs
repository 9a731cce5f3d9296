//! From a client to the server.

use std::{net::SocketAddr, process::Stdio};

use iroh::SecretKey;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::program::program;

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
    expose: Option<Child>,
    _gateway: Option<Child>,
}

impl Route {
    pub async fn lay(way: Way, server: SocketAddr) -> Self {
        Self::lay_for_pages(way, server, None).await
    }

    /// The gateway answers to pages of this origin.
    pub async fn lay_for_pages(way: Way, server: SocketAddr, origin: Option<&str>) -> Self {
        if way == Way::Direct {
            return Self {
                target: server.to_string(),
                proxy: None,
                expose: None,
                _gateway: None,
            };
        }
        let (expose, ticket) = expose(server).await;
        let (gateway, addr) = gateway(way, &ticket, origin).await;
        let proxy = (way == Way::Proxy).then_some(addr);
        Self {
            target: match proxy {
                Some(_) => "dns:///db.iroh:443".to_owned(),
                None => addr.to_string(),
            },
            proxy,
            expose: Some(expose),
            _gateway: Some(gateway),
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

    /// Kills the peer that the gateway calls, as a crash would.
    pub async fn kill_peer(&mut self) {
        let expose = self.expose.as_mut().expect("a way with a peer");
        expose.kill().await.expect("it runs");
    }
}

/// The program in front of the server, and its ticket.
async fn expose(server: SocketAddr) -> (Child, String) {
    start(&["expose", &server.to_string(), "--allow-all"]).await
}

/// The program in front of the client, and where it listens.
async fn gateway(way: Way, ticket: &str, origin: Option<&str>) -> (Child, SocketAddr) {
    let (peer, nobody) = (format!("db={ticket}"), SecretKey::generate().public());
    let mut args = vec!["gateway", "--listen", "127.0.0.1:0"];
    let nobody = format!("nobody={nobody}");
    match way {
        // The gateway's only peer is that of every call. A second one, which does not exist, makes the name count.
        Way::Proxy => args.extend(["--peer", &peer, "--peer", &nobody]),
        _ => args.extend(["--peer", &peer]),
    }
    if let Some(origin) = origin {
        args.extend(["--cors-origin", origin]);
    }
    let (child, addr) = start(&args).await;
    (child, addr.parse().expect("an address"))
}

/// The program on this machine alone, and the line that it prints once it is ready. Its standard error is the test's.
async fn start(args: &[&str]) -> (Child, String) {
    let local = ["--bind", "127.0.0.1:0", "--relay", "disabled"];
    let mut child = program(args.iter().chain(&local))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = lines.next_line().await.expect("readable");
    let line = line.unwrap_or_else(|| panic!("{args:?} ended before it was ready"));
    (child, line)
}
