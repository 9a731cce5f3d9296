//! What the test service tells the tests about itself, past the wire.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use tonic::Request;

/// How many calls of the test service have come to which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls whose handler started.
    pub begun: u64,
    /// Calls that ended with what the handler wanted to say, be it OK or a status.
    pub finished: u64,
    /// Calls that were dropped by the server because the caller was gone or the time was over.
    pub cancelled: u64,
    /// Messages that streaming handlers handed to tonic.
    pub sent: u64,
}

/// The counts and the last request, shared by the service and the test.
#[derive(Clone, Debug, Default)]
pub struct Backstage {
    counts: Arc<watch::Sender<Counts>>,
    last_request: Arc<Mutex<Option<Request<()>>>>,
}

impl Backstage {
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Waits until the counts satisfy `wanted`; panics after ten seconds.
    pub async fn wait(&self, what: &str, wanted: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.counts.subscribe();
        match timeout(Duration::from_secs(10), counts.wait_for(wanted)).await {
            Ok(counts) => *counts.expect("the sender is held by self"),
            Err(_) => panic!("waited 10 s for {what}, and have {:?}", self.counts()),
        }
    }

    pub(super) fn begin(&self) -> Call {
        self.counts.send_modify(|counts| counts.begun += 1);
        Call {
            backstage: self.clone(),
            finished: false,
        }
    }

    pub(super) fn sent(&self) {
        self.counts.send_modify(|counts| counts.sent += 1);
    }

    /// Takes the last request as its handler had it: metadata and extensions.
    pub fn take_request(&self) -> Request<()> {
        let mut last = self.last_request.lock().expect("no test panics in here");
        last.take().expect("a call of the test service")
    }

    pub(super) fn remember<T>(&self, request: &Request<T>) {
        let (metadata, extensions) = (request.metadata().clone(), request.extensions().clone());
        let request = Request::from_parts(metadata, extensions, ());
        *self.last_request.lock().expect("no test panics in here") = Some(request);
    }
}

/// One call of the test service; dropped before [`Call::finish`], it counts as cancelled.
#[derive(Debug)]
pub(super) struct Call {
    backstage: Backstage,
    finished: bool,
}

impl Call {
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.backstage.counts.send_modify(|counts| {
            if self.finished {
                counts.finished += 1;
            } else {
                counts.cancelled += 1;
            }
        });
    }
}
