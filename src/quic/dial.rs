//! How a connection is made: iroh's `connect`, with our ALPN and tuning.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
};

use futures_util::{FutureExt, future::BoxFuture};
use iroh::{Endpoint, EndpointAddr, EndpointId, endpoint::ConnectOptions};
use tokio::sync::Notify;

use super::link::{Link, LinkSettings};
use crate::{
    error::Error,
    lock::lock,
    pool::{Announce, Dialer, Pooled, Uses},
    wire::ALPN,
};

pub(crate) struct IrohDialer {
    endpoint: Endpoint,
    settings: LinkSettings,
    known: Arc<AddressBook>,
}

/// Where peers are, as far as we were told. What an address lookup finds is iroh's business.
#[derive(Default)]
struct AddressBook {
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

impl AddressBook {
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

    fn sends_early_data(&self) -> bool {
        self.settings.early_data
    }

    fn dial(
        &self,
        id: EndpointId,
        uses: Uses,
        early: Announce<Link>,
    ) -> BoxFuture<'static, Result<Arc<Link>, Error>> {
        let known = self.known.clone();
        let endpoint = self.endpoint.clone();
        let settings = self.settings.clone();
        async move {
            loop {
                let addr = known.of(id);
                // A dial to where the peer was until now would take all its time for nothing.
                tokio::select! {
                    link = connect(&endpoint, addr.clone(), &settings, &uses, &early) => return link,
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
    uses: &Uses,
    early: &Announce<Link>,
) -> Result<Arc<Link>, Error> {
    let id = addr.id;
    let options = ConnectOptions::new().with_transport_config(settings.tuning.transport_config());
    let connecting = endpoint
        .connect_with_opts(addr, ALPN, options)
        .await
        .map_err(|error| Error::from_connect_start(&error, &error))?;
    let connecting = match settings.early_data {
        true => connecting.into_0rtt(),
        false => Err(connecting),
    };
    let connection = match connecting {
        Ok(connection) => {
            let link = Link::early(id, connection.clone(), uses.another(), settings.clone());
            let unfinished = Unfinished(Some(&link));
            early.tell(&link);
            // Polled from here on: iroh's hooks run in it, and what they refuse is no connection.
            let status = connection.handshake_completed().await;
            link.completed(status.map_err(|error| Error::from_connecting(&error))?);
            unfinished.finish();
            return Ok(link);
        }
        Err(connecting) => connecting.await,
    };
    let connection = connection.map_err(|error| Error::from_connecting(&error))?;
    Ok(Link::new(connection, uses.another(), settings.clone()))
}

/// Closes an early link whose dial came to nothing, so that calls on it do not wait for a peer that does not answer.
struct Unfinished<'a>(Option<&'a Arc<Link>>);

impl Unfinished<'_> {
    fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(link) = self.0 {
            link.close();
        }
    }
}
