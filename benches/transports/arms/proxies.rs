//! Two programs between a client and a server that know nothing of each other's transport: ours, and two plain proxies over TCP and TLS.
//!
//! Each of the two is a process of its own, as it is where they are used. Client and server are in the arm's process.

use std::{
    env,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitCode, Stdio},
};

use tonic::{
    body::Body,
    transport::{
        Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig,
    },
};
use tower::{ServiceExt, service_fn};
use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};

use super::tcp::listen;
use crate::shared::{Fault, grpc::GrpcLink, transport::Arm, with_causes};

/// A process between the two, which ends with the arm.
struct Between(Child);

impl Drop for Between {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Between {
    /// Starts a process, and reads the line with which it says where it is.
    fn start(command: &mut Command) -> Result<(Self, String), Fault> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut between = Self(command.spawn()?);
        let mut line = String::new();
        if let Some(stdout) = between.0.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        match line.trim() {
            "" => Err("a process between client and server ended before it began".into()),
            said => Ok((between, said.to_owned())),
        }
    }
}

pub struct Proxies {
    endpoint: Endpoint,
    _between: [Between; 2],
}

impl Arm for Proxies {
    type Link = GrpcLink<Channel>;

    async fn link(&self) -> Result<Self::Link, Fault> {
        Ok(GrpcLink::new(self.endpoint.connect().await?))
    }

    fn notes(&self) -> Vec<String> {
        vec!["two processes between".to_owned()]
    }
}

async fn server() -> Result<SocketAddr, Fault> {
    let (incoming, address) = listen().await?;
    tokio::spawn(
        Server::builder()
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming(incoming),
    );
    Ok(address)
}

/// `tower-iroh gateway` and `tower-iroh expose`.
pub async fn ours() -> Result<Proxies, Fault> {
    let program = option_env!("CARGO_BIN_EXE_tower-iroh")
        .ok_or("the program was not built: `cargo bench --features cli --bench transports`")?;
    let server = server().await?.to_string();
    let offline = ["--relay", "disabled", "--bind", "127.0.0.1:0"];
    let mut expose = Command::new(program);
    expose
        .args(["expose", &server, "--allow-all"])
        .args(offline);
    let (exposed, ticket) = Between::start(&mut expose)?;
    let mut gateway = Command::new(program);
    gateway
        .args(["gateway", &ticket, "--listen", "127.0.0.1:0"])
        .args(offline);
    let (gateway, address) = Between::start(&mut gateway)?;
    Ok(Proxies {
        endpoint: Endpoint::from_shared(format!("http://{address}"))?,
        _between: [gateway, exposed],
    })
}

const TO: &str = "TOWER_IROH_BENCH_TO";
const CERTIFICATE: &str = "TOWER_IROH_BENCH_CERTIFICATE";
const KEY: &str = "TOWER_IROH_BENCH_KEY";

/// hyper in and tonic's channel out, twice, with TLS between the two.
pub async fn plain() -> Result<Proxies, Fault> {
    let server = server().await?;
    let key = rcgen::generate_simple_self_signed([String::from("localhost")])?;
    let proxy = |name: &str, to: String| {
        let mut command = Command::new(env::current_exe()?);
        command
            .args(["--as-arm", name])
            .env(TO, to)
            .env(CERTIFICATE, key.cert.pem())
            .env(KEY, key.signing_key.serialize_pem());
        Between::start(&mut command)
    };
    let (far, far_address) = proxy("far-proxy", server.to_string())?;
    let (near, address) = proxy("near-proxy", far_address)?;
    Ok(Proxies {
        endpoint: Endpoint::from_shared(format!("http://{address}"))?,
        _between: [near, far],
    })
}

/// Is one of the two plain proxies until it is killed.
pub fn be(far: bool) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime
        .map_err(Fault::from)
        .and_then(|runtime| runtime.block_on(serve(far)))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn serve(far: bool) -> Result<(), Fault> {
    let (to, certificate, key) = (env::var(TO)?, env::var(CERTIFICATE)?, env::var(KEY)?);
    let mut server = Server::builder();
    let channel = if far {
        server = server
            .tls_config(ServerTlsConfig::new().identity(Identity::from_pem(&certificate, key)))?;
        Endpoint::from_shared(format!("http://{to}"))?.connect_lazy()
    } else {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(certificate))
            .domain_name("localhost");
        Endpoint::from_shared(format!("https://{to}"))?
            .tls_config(tls)?
            .connect_lazy()
    };
    let (incoming, address) = listen().await?;
    println!("{address}");
    let forward = service_fn(move |request: http::Request<Body>| channel.clone().oneshot(request));
    Ok(server.serve_with_incoming(forward, incoming).await?)
}
