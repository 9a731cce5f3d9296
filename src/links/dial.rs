//! How a connection is made: iroh's `connect`, with our ALPN and tuning.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{FutureExt, future::BoxFuture};
use iroh::{Endpoint, EndpointAddr, EndpointId, endpoint::ConnectOptions};

use super::{
    link::{Link, LinkSettings},
    pool::Dialer,
    uses::Uses,
};
use crate::{Error, wire::ALPN};

pub(super) struct IrohDialer {
    endpoint: Endpoint,
    settings: LinkSettings,
    /// Where peers are, as far as we were told. What an address lookup finds is iroh's business.
    known: Mutex<HashMap<EndpointId, EndpointAddr>>,
}

impl IrohDialer {
    pub(super) fn new(endpoint: Endpoint, settings: LinkSettings) -> Self {
        Self {
            endpoint,
            settings,
            known: Mutex::default(),
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn know(&self, addr: EndpointAddr) {
        self.lock().insert(addr.id, addr);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<EndpointId, EndpointAddr>> {
        // Nothing in here panics half-way, so what a poisoned lock guards is whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dialer for IrohDialer {
    type Connection = Link;

    fn dial(&self, id: EndpointId, uses: Uses) -> BoxFuture<'static, Result<Arc<Link>, Error>> {
        let addr = self.lock().get(&id).cloned();
        let addr = addr.unwrap_or_else(|| EndpointAddr::new(id));
        let endpoint = self.endpoint.clone();
        let settings = self.settings.clone();
        async move {
            let options =
                ConnectOptions::new().with_transport_config(settings.tuning.transport_config());
            let connecting = endpoint
                .connect_with_opts(addr, ALPN, options)
                .await
                .map_err(|error| Error::from_connect_start(&error, &error))?;
            let connection = connecting
                .await
                .map_err(|error| Error::from_connecting(&error))?;
            Ok(Link::new(connection, uses, settings))
        }
        .boxed()
    }
}
