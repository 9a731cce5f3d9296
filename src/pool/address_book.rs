//! The addresses that the program gave for its peers.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Mutex, MutexGuard},
};

use iroh::EndpointId;
use tokio::sync::Notify;

use crate::lock::lock;

/// The address that was last given for each peer. What an address lookup finds is the transport's business.
#[derive(Debug)]
pub(crate) struct AddressBook<A> {
    addrs: Mutex<HashMap<EndpointId, A>>,
    /// Notified of every change, for the dials under way.
    changed: Notify,
}

impl<A> Default for AddressBook<A> {
    fn default() -> Self {
        Self {
            addrs: Mutex::default(),
            changed: Notify::new(),
        }
    }
}

impl<A: Clone + PartialEq> AddressBook<A> {
    /// Sets a peer's address; the one before it.
    pub(crate) fn insert(&self, id: EndpointId, addr: A) -> Option<A> {
        let before = self.lock().insert(id, addr);
        self.changed.notify_waiters();
        before
    }

    pub(crate) fn remove(&self, id: EndpointId) {
        self.lock().remove(&id);
        self.changed.notify_waiters();
    }

    pub(crate) fn get(&self, id: EndpointId) -> Option<A> {
        self.lock().get(&id).cloned()
    }

    /// Resolves when the peer's address is another than `addr`. Cancel safe.
    pub(crate) async fn moved(&self, id: EndpointId, addr: Option<&A>) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Registered before the look, so that no change is missed in between.
            changed.as_mut().enable();
            if self.get(id).as_ref() != addr {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointId, A>> {
        lock(&self.addrs)
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[test]
    fn a_dial_hears_of_a_new_address_and_of_none_any_more() {
        let book = AddressBook::default();
        let id = iroh::SecretKey::from_bytes(&[1; 32]).public();
        let mut moved = task::spawn(book.moved(id, None));
        assert_pending!(moved.poll());
        assert_eq!(book.insert(id, 1), None);
        assert!(moved.is_woken());
        assert_ready!(moved.poll());

        let mut moved = task::spawn(book.moved(id, Some(&1)));
        assert_pending!(moved.poll());
        // The same again, and the change of another peer, are no move.
        assert_eq!(book.insert(id, 1), Some(1));
        assert_pending!(moved.poll());
        book.remove(id);
        assert_ready!(moved.poll());
        assert_eq!(book.get(id), None);
    }
}
