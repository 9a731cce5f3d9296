//! The servers, each on a runtime of its own that stands for a process of its own, and the ways to them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use iroh::{
    Endpoint, EndpointAddr, SecretKey,
    endpoint::{Builder, InvalidSocketAddr},
};
use tokio::{
    runtime::{Handle, Runtime},
    sync::oneshot,
    time::timeout,
};
use tower_iroh::{Acceptor, Links, Peer, presets::Offline};
use tower_iroh_proto::echo::echo_server::EchoServer;

use crate::{
    Error,
    ledger::Ledger,
    service::Service,
    udp_way::{self, UdpWay},
};

/// How long what is in flight may take when a server drains.
const DRAIN: Duration = Duration::from_secs(2);

/// A server that comes and goes under one key.
pub(crate) struct Host {
    pub(crate) name: String,
    key: SecretKey,
    place: Place,
    /// Every call goes this way; without one it goes straight to the server.
    pub(crate) way: Option<UdpWay>,
    ledger: Arc<Ledger>,
    running: Mutex<Option<Running>>,
}

/// Ends in the background, since a runtime that is dropped in an asynchronous context panics.
struct OwnRuntime(Option<Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Binds a server's endpoint, to where it can be reached.
type Place = fn(Builder) -> Result<Builder, InvalidSocketAddr>;

struct Running {
    runtime: OwnRuntime,
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<Result<(), Error>>,
}

impl Host {
    pub(crate) async fn start(
        name: String,
        ledger: Arc<Ledger>,
        way: Option<u64>,
    ) -> Result<Self, Error> {
        let key = SecretKey::generate();
        let place: Place = match way {
            Some(_) => udp_way::beyond,
            None => udp_way::near,
        };
        let running = serve(key.clone(), ledger.clone(), place).await?;
        let way = match way {
            Some(seed) => Some(UdpWay::to(running.addr, seed).await?),
            None => None,
        };
        Ok(Self {
            name,
            key,
            place,
            way,
            ledger,
            running: Mutex::new(Some(running)),
        })
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom clients dial, and where.
    pub(crate) fn peer(&self) -> Peer {
        let addr = EndpointAddr::new(self.key.public());
        let at = match &self.way {
            Some(way) => Some(way.addr()),
            None => self.running().as_ref().map(|running| running.addr),
        };
        match at {
            Some(at) => addr.with_ip_addr(at).into(),
            None => addr.into(),
        }
    }

    /// From one moment to the next nothing is sent any more and nothing is answered: no goodbye.
    pub(crate) fn kill(&self) {
        drop(self.running().take());
    }

    /// As an update would stop it: what is in flight is finished, within [`DRAIN`].
    pub(crate) async fn drain(&self) -> Result<(), Error> {
        let Some(running) = self.running().take() else {
            return Ok(());
        };
        // Received, unless the server has ended by itself, and then it has said why.
        let _ = running.stop.send(());
        // The drain, and what closing the endpoint takes where nobody answers any more.
        let most = DRAIN + Duration::from_secs(10);
        let stopped = timeout(most, running.stopped).await;
        drop(running.runtime);
        stopped.map_err(|_| format!("{} had not drained after {most:?}", self.name))??
    }

    /// Starts it again, on another port, and says so to whom it concerns.
    pub(crate) async fn restart(&self, clients: &[Links]) -> Result<(), Error> {
        let running = serve(self.key.clone(), self.ledger.clone(), self.place).await?;
        match &self.way {
            Some(way) => way.lead_to(running.addr),
            None => {
                let addr = EndpointAddr::new(self.key.public()).with_ip_addr(running.addr);
                for links in clients {
                    links.add_peer(addr.clone());
                }
            }
        }
        *self.running() = Some(running);
        Ok(())
    }

    /// Tasks that are alive in it.
    pub(crate) fn tasks(&self) -> usize {
        self.running()
            .as_ref()
            .and_then(|running| running.runtime.0.as_ref())
            .map_or(0, |runtime| runtime.metrics().num_alive_tasks())
    }
}

async fn serve(key: SecretKey, ledger: Arc<Ledger>, place: Place) -> Result<Running, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("soak-server")
        .enable_all()
        .build()?;
    let (tell, told) = oneshot::channel();
    let (stop, stopping) = oneshot::channel::<()>();
    let (ended, stopped) = oneshot::channel();
    runtime.spawn(async move {
        let outcome = run(key, ledger, place, tell, stopping).await;
        // Nobody may want to know: the server was killed, or did not start.
        let _ = ended.send(outcome);
    });
    match told.await {
        Ok(addr) => Ok(Running {
            runtime: OwnRuntime(Some(runtime)),
            addr,
            stop,
            stopped,
        }),
        Err(_) => {
            runtime.shutdown_background();
            stopped.await??;
            Err("a server ended before it had begun".into())
        }
    }
}

async fn run(
    key: SecretKey,
    ledger: Arc<Ledger>,
    place: Place,
    tell: oneshot::Sender<SocketAddr>,
    stopping: oneshot::Receiver<()>,
) -> Result<(), Error> {
    let builder = Endpoint::builder(Offline).secret_key(key);
    let endpoint = place(builder)?.bind().await?;
    let addr = endpoint.bound_sockets().into_iter().next();
    let (acceptor, incoming) = Acceptor::builder().drain_timeout(DRAIN).build()?;
    let router = acceptor.router(endpoint).spawn();
    let _ = tell.send(addr.ok_or("the endpoint has no socket")?);
    let serving = tonic::transport::Server::builder()
        .add_service(EchoServer::new(Service(ledger)))
        .serve_with_incoming_shutdown(incoming, async {
            let _ = stopping.await;
        });
    // tonic waits for open calls for as long as they like; the acceptor closes their connections after the drain time.
    serving.await?;
    router.shutdown().await?;
    Ok(())
}

/// Tasks that are alive, in this process's main runtime and in the servers'.
pub(crate) fn tasks(hosts: &[Arc<Host>]) -> usize {
    let here = Handle::current().metrics().num_alive_tasks();
    here + hosts.iter().map(|host| host.tasks()).sum::<usize>()
}
