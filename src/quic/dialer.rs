//! How a connection is made: iroh's `connect`, with our ALPN and tuning.

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};
use iroh::{Endpoint, EndpointAddr, EndpointId, endpoint::ConnectOptions};

use super::link::{Link, LinkSettings};
use crate::{
    error::Error,
    peer::Peer,
    pool::{AddressBook, Announce, Dialer, Known, Pooled, Uses},
    wire::ALPN,
};

/// Dials over iroh.
pub struct QuicDialer {
    endpoint: Endpoint,
    settings: LinkSettings,
    addrs: Arc<AddressBook<EndpointAddr>>,
}

impl QuicDialer {
    pub(super) fn new(endpoint: Endpoint, settings: LinkSettings) -> Self {
        Self {
            endpoint,
            settings,
            addrs: Arc::default(),
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Dialer for QuicDialer {
    type Connection = Link;

    fn sends_early_data(&self) -> bool {
        self.settings.early_data
    }

    /// A connection follows its peer to another address by itself.
    fn know(&self, peer: &Peer) -> Known {
        self.addrs.insert(peer.id(), peer.addr().clone());
        Known::Addr
    }

    fn forget(&self, id: EndpointId) {
        self.addrs.remove(id);
    }

    fn dial(
        &self,
        id: EndpointId,
        uses: Uses,
        early: Announce<Link>,
    ) -> BoxFuture<'static, Result<Arc<Link>, Error>> {
        let addrs = self.addrs.clone();
        let endpoint = self.endpoint.clone();
        let settings = self.settings.clone();
        async move {
            loop {
                let known = addrs.get(id);
                // Without an address iroh's lookup has to know.
                let addr = known.clone().unwrap_or_else(|| EndpointAddr::new(id));
                // A dial to where the peer was until now would take all its time for nothing.
                tokio::select! {
                    link = connect(&endpoint, addr, &settings, &uses, &early) => return link,
                    () = addrs.moved(id, known.as_ref()) => {}
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
    let options = ConnectOptions::new().with_transport_config(settings.tuning.dialled());
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
