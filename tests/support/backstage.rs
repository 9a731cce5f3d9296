//! What the test service tells the tests about itself, past the wire.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};

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

/// The counts, shared by the service and the test.
#[derive(Clone, Debug, Default)]
pub struct Backstage(Arc<watch::Sender<Counts>>);

impl Backstage {
    pub fn counts(&self) -> Counts {
        *self.0.borrow()
    }

    /// Waits until the counts satisfy `wanted`; panics after ten seconds.
    pub async fn wait(&self, what: &str, wanted: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.0.subscribe();
        match timeout(Duration::from_secs(10), counts.wait_for(wanted)).await {
            Ok(counts) => *counts.expect("the sender is held by self"),
            Err(_) => panic!("waited 10 s for {what}, and have {:?}", self.counts()),
        }
    }

    pub(super) fn begin(&self) -> Call {
        self.0.send_modify(|counts| counts.begun += 1);
        Call {
            backstage: self.clone(),
            finished: false,
        }
    }

    pub(super) fn sent(&self) {
        self.0.send_modify(|counts| counts.sent += 1);
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
        self.backstage.0.send_modify(|counts| {
            if self.finished {
                counts.finished += 1;
            } else {
                counts.cancelled += 1;
            }
        });
    }
}
