//! Loads, the same for every arm.

use bytes::Bytes;
use tonic::Request;
use tower_iroh::Urgency;
use tower_iroh_proto::{
    echo::EchoRequest,
    testing::{Payload, SimpleRequest},
};

mod both;
mod bulk;
mod paced;

pub use both::{Both, Outcome, measure};
pub use bulk::{Bulk, Way};
pub use paced::{Latency, Pace};

/// Bytes of a small call, each way.
pub const SMALL: usize = 64;
/// Bytes of a bulk message.
pub const MEBIBYTE: usize = 1 << 20;

/// A small call with a content of its own.
pub fn echo(number: u64) -> EchoRequest {
    let mut payload = vec![0; SMALL];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    EchoRequest {
        payload: payload.into(),
    }
}

/// A call that sends so many bytes and gets none.
pub fn upload(bytes: usize) -> SimpleRequest {
    SimpleRequest {
        payload: Some(Payload {
            body: Bytes::from(vec![0; bytes]),
        }),
        ..SimpleRequest::default()
    }
}

/// The request with its urgency; TCP arms don't look at it.
fn urgent<T>(message: T, urgency: Option<Urgency>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(urgency) = urgency {
        request.extensions_mut().insert(urgency);
    }
    request
}
