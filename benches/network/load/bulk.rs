//! Callers that send one large message after the other.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::{JoinHandle, JoinSet};
use tower_iroh::Urgency;
use tower_iroh_lab::Host;
use tower_iroh_proto::testing::{SimpleRequest, test_service_client::TestServiceClient};

use super::{upload, urgent};
use crate::arms::Service;

/// Which way the large messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Up,
    Down,
}

impl Way {
    pub const BOTH: [Self; 2] = [Self::Up, Self::Down];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// So many callers, each with one message in flight.
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    pub callers: usize,
    pub bytes: usize,
    pub way: Way,
    /// `None`: as a user who says nothing.
    pub urgency: Option<Urgency>,
}

type FirstError = Arc<Mutex<Option<String>>>;

/// The callers at work. Dropping it ends them.
pub struct Running {
    task: JoinHandle<()>,
    error: FirstError,
}

impl Bulk {
    pub fn start(self, host: &Host, client: &TestServiceClient<Service>) -> Running {
        let (error, client) = (FirstError::default(), client.clone());
        let first = error.clone();
        let task = host.spawn(async move {
            let message = match self.way {
                Way::Up => upload(self.bytes),
                Way::Down => SimpleRequest {
                    response_size: self.bytes as u32,
                    ..SimpleRequest::default()
                },
            };
            let mut callers = JoinSet::new();
            for _ in 0..self.callers {
                callers.spawn(self.call(client.clone(), message.clone(), first.clone()));
            }
            callers.join_all().await;
        });
        Running { task, error }
    }

    async fn call(
        self,
        mut client: TestServiceClient<Service>,
        message: SimpleRequest,
        error: FirstError,
    ) {
        loop {
            let answer = client
                .unary_call(urgent(message.clone(), self.urgency))
                .await;
            let trouble = match answer {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    let carried = match self.way {
                        Way::Up => answer.received_size as usize,
                        Way::Down => answer.payload.unwrap_or_default().body.len(),
                    };
                    (carried != self.bytes).then(|| format!("{carried} of {} bytes", self.bytes))
                }
                Err(status) => Some(format!("{:?}: {}", status.code(), status.message())),
            };
            if let Some(trouble) = trouble {
                keep(&error, trouble);
                // A fault is reported and not multiplied.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn keep(error: &FirstError, trouble: String) {
    let mut error = error.lock().unwrap_or_else(PoisonError::into_inner);
    error.get_or_insert(trouble);
}

impl Running {
    /// Ends the callers; the first thing that went wrong.
    pub fn end(self) -> Option<String> {
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        error.take()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}
