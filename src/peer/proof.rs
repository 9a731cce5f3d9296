//! What a connection's handshake has proved, for all who hold a part of the connection.

use std::sync::{Arc, OnceLock};

use iroh::{
    EndpointId,
    endpoint::{Connection, WeakConnectionHandle},
};

/// The peer's identity, once its handshake is complete and everybody who may refuse it has not. Clones share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proof(Arc<OnceLock<Proved>>);

#[derive(Debug)]
struct Proved {
    id: EndpointId,
    connection: WeakConnectionHandle,
}

impl Proof {
    /// Of a connection whose handshake is complete.
    pub(crate) fn of(connection: &Connection) -> Self {
        let proof = Self::default();
        proof.complete(connection);
        proof
    }

    /// Says that the handshake is complete.
    pub(crate) fn complete(&self, connection: &Connection) {
        self.0.get_or_init(|| Proved {
            id: connection.remote_id(),
            connection: connection.weak_handle(),
        });
    }

    pub(crate) fn id(&self) -> Option<EndpointId> {
        self.0.get().map(|proved| proved.id)
    }

    /// The connection, while there is one.
    pub(crate) fn connection(&self) -> Option<Connection> {
        self.0.get()?.connection.upgrade()
    }
}
