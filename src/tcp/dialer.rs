//! What the pool makes connections with.

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};
use iroh::EndpointId;

use super::link::{LinkSettings, TcpLink};
use crate::{
    error::{Error, ErrorKind},
    peer::{Peer, TcpAddr},
    pool::{AddressBook, Announce, Dialer, Known, Uses},
};

/// Dials over TCP.
pub struct TcpDialer {
    settings: LinkSettings,
    addrs: Arc<AddressBook<TcpAddr>>,
}

impl TcpDialer {
    pub(super) fn new(settings: LinkSettings) -> Self {
        Self {
            settings,
            addrs: Arc::default(),
        }
    }

    pub(super) fn id(&self) -> EndpointId {
        self.settings.dial.identity.id()
    }
}

impl Dialer for TcpDialer {
    type Connection = TcpLink;

    /// A link dials for each further stream, to where it was made: one whose peer is elsewhere now takes no further call.
    fn know(&self, peer: &Peer) -> Known {
        let Some(addr) = peer.tcp() else {
            return Known::Nothing;
        };
        match self.addrs.insert(peer.id(), addr.clone()) {
            Some(before) if before != *addr => Known::Moved,
            _ => Known::Addr,
        }
    }

    fn forget(&self, id: EndpointId) {
        self.addrs.remove(id);
    }

    fn dial(
        &self,
        id: EndpointId,
        uses: Uses,
        _: Announce<TcpLink>,
    ) -> BoxFuture<'static, Result<Arc<TcpLink>, Error>> {
        let (settings, addrs) = (self.settings.clone(), self.addrs.clone());
        async move {
            loop {
                let Some(addr) = addrs.get(id) else {
                    let message = "nothing is known of where the peer answers over TCP: Peer::with_tcp says it";
                    return Err(Error::new(ErrorKind::NoAddress, message));
                };
                // A dial to where the peer was until now would take all its time for nothing.
                let dialled = tokio::select! {
                    dialled = settings.dial.dial(id, &addr) => dialled?,
                    () = addrs.moved(id, Some(&addr)) => continue,
                };
                return Ok(TcpLink::new(id, addr, dialled, uses, settings));
            }
        }
        .boxed()
    }
}
