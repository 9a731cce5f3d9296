//! What the pool makes connections with.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex},
};

use futures_util::{FutureExt, future::BoxFuture};
use iroh::EndpointId;
use tokio::sync::Notify;

use super::link::{LinkSettings, TcpLink};
use crate::{
    error::{Error, ErrorKind},
    lock::lock,
    peer::TcpAddr,
    pool::{Announce, Dialer, Uses},
};

pub(crate) struct TcpDialer {
    settings: LinkSettings,
    known: Arc<AddressBook>,
}

/// Where peers are, as far as we were told.
#[derive(Default)]
struct AddressBook {
    addrs: Mutex<HashMap<EndpointId, TcpAddr>>,
    /// Told of every change, for the dials in flight.
    changed: Notify,
}

impl TcpDialer {
    pub(super) fn new(settings: LinkSettings) -> Self {
        Self {
            settings,
            known: Arc::default(),
        }
    }

    pub(super) fn id(&self) -> EndpointId {
        self.settings.dial.identity.id()
    }

    /// Says where a peer is; whether it was said to be elsewhere.
    pub(super) fn know(&self, id: EndpointId, addr: TcpAddr) -> bool {
        let before = lock(&self.known.addrs).insert(id, addr.clone());
        self.known.changed.notify_waiters();
        before.is_some_and(|before| before != addr)
    }

    pub(super) fn forget(&self, id: EndpointId) {
        lock(&self.known.addrs).remove(&id);
        self.known.changed.notify_waiters();
    }
}

impl AddressBook {
    fn of(&self, id: EndpointId) -> Option<TcpAddr> {
        lock(&self.addrs).get(&id).cloned()
    }

    /// Resolves when the peer is said to be elsewhere than at `addr`.
    async fn moved(&self, id: EndpointId, addr: &TcpAddr) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Registered before the look, so that no change is missed in between.
            changed.as_mut().enable();
            if self.of(id).as_ref() != Some(addr) {
                return;
            }
            changed.await;
        }
    }
}

impl Dialer for TcpDialer {
    type Connection = TcpLink;

    fn dial(
        &self,
        id: EndpointId,
        uses: Uses,
        _: Announce<TcpLink>,
    ) -> BoxFuture<'static, Result<Arc<TcpLink>, Error>> {
        let (settings, known) = (self.settings.clone(), self.known.clone());
        async move {
            loop {
                let Some(addr) = known.of(id) else {
                    let message = "nothing is known of where the peer answers over TCP: Peer::with_tcp says it";
                    return Err(Error::new(ErrorKind::NoAddress, message));
                };
                // A dial to where the peer was until now would take all its time for nothing.
                let dialled = tokio::select! {
                    dialled = settings.dial.dial(id, &addr) => dialled?,
                    () = known.moved(id, &addr) => continue,
                };
                return Ok(TcpLink::new(id, addr, dialled, uses, settings));
            }
        }
        .boxed()
    }
}
