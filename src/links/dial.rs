//! How a connection is made: iroh's `connect`, with our ALPN and tuning.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
};

use futures_util::{FutureExt, future::BoxFuture};
use iroh::{
    Endpoint, EndpointAddr, EndpointId,
    endpoint::{ConnectOptions, Connection},
};
use tokio::sync::Notify;

use super::{
    link::{Link, LinkSettings},
    pool::Dialer,
    uses::Uses,
};
use crate::lock::lock;
use crate::{Error, wire::ALPN};

pub(super) struct IrohDialer {
    endpoint: Endpoint,
    settings: LinkSettings,
    known: Arc<Known>,
}

/// Where peers are, as far as we were told. What an address lookup finds is iroh's business.
#[derive(Default)]
struct Known {
    addrs: Mutex<HashMap<EndpointId, EndpointAddr>>,
    /// Told of every change, for the dials in flight.
    changed: Notify,
}

impl IrohDialer {
    pub(super) fn new(endpoint: Endpoint, settings: LinkSettings) -> Self {
        Self {
            endpoint,
            settings,
            known: Arc::default(),
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn know(&self, addr: EndpointAddr) {
        self.known.lock().insert(addr.id, addr);
        self.known.changed.notify_waiters();
    }
}

impl Known {
    fn of(&self, id: EndpointId) -> EndpointAddr {
        let known = self.lock().get(&id).cloned();
        known.unwrap_or_else(|| EndpointAddr::new(id))
    }

    /// Resolves when the peer is said to be elsewhere than at `addr`.
    async fn moved(&self, addr: &EndpointAddr) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Registered before the look, so that no change is missed in between.
            changed.as_mut().enable();
            if self.of(addr.id) != *addr {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointId, EndpointAddr>> {
        lock(&self.addrs)
    }
}

impl Dialer for IrohDialer {
    type Connection = Link;

    fn dial(&self, id: EndpointId, uses: Uses) -> BoxFuture<'static, Result<Arc<Link>, Error>> {
        let known = self.known.clone();
        let endpoint = self.endpoint.clone();
        let settings = self.settings.clone();
        async move {
            loop {
                let addr = known.of(id);
                // A dial to where the peer was until now would take all its time for nothing.
                tokio::select! {
                    connection = connect(&endpoint, addr.clone(), &settings) => {
                        return Ok(Link::new(connection?, uses, settings));
                    }
                    () = known.moved(&addr) => {}
                }
            }
        }
        .boxed()
    }
}

async fn connect(
    endpoint: &Endpoint,
    addr: EndpointAddr,
    settings: &LinkSettings,
) -> Result<Connection, Error> {
    let options = ConnectOptions::new().with_transport_config(settings.tuning.transport_config());
    let connecting = endpoint
        .connect_with_opts(addr, ALPN, options)
        .await
        .map_err(|error| Error::from_connect_start(&error, &error))?;
    connecting
        .await
        .map_err(|error| Error::from_connecting(&error))
}
