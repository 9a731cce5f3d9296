//! Sends a call before its connection's handshake is complete.
//!
//! An attacker can record such a call and replay it, so only idempotent calls are sent early. In return, a call whose early
//! attempt failed for any reason can be sent again on the connection that the dial returns.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use tonic::body::Body;
use tower_iroh_layers::{Deadline, Idempotent, Methods, Urgency, peek::Peeked};

use super::arm::{self, Sent};
use crate::{error::Error, http2::Carries, pool::Use};

/// The largest request that is sent early. HTTP/2 allows no more before the server's settings are known (RFC 9113, section 6.9.2).
const MOST: u32 = 64 * 1024 - 1 - tower_iroh_layers::peek::PREFIX_LEN as u32;

/// Whether a call may be sent early: it is idempotent, and its request is complete.
pub(super) fn may_leave(head: &Request<()>, body: &Peeked<Body>, methods: &Methods) -> bool {
    let idempotent = head.extensions().get::<Idempotent>().is_some()
        || methods.get(head.uri().path()).is_idempotent();
    idempotent && body.is_whole() && body.message_len().is_some_and(|len| len <= MOST)
}

/// The outcome of an early call.
pub(super) enum Outcome<L: Carries> {
    Answered(Response<h2::RecvStream>, Sent, Use<L>),
    Failed(Error),
    /// The peer did not accept the early call. The call must be sent again, on this connection.
    Again(Use<L>),
}

/// Sends a call on a connection whose handshake is not complete, and waits for the answer and for the handshake.
///
/// `dial` is the pool's dial of this connection. The answer is not used before the dial has succeeded.
pub(super) async fn attempt<L: Carries>(
    link: &Arc<L>,
    dial: impl Future<Output = Result<Use<L>, Error>>,
    mut head: Request<()>,
    message: Bytes,
    urgency: Urgency,
) -> Outcome<L> {
    let len = tower_iroh_layers::peek::message_len(&message);
    let answer = async {
        let permit = link.lanes().acquire(urgency, len).await?;
        let http2 = permit.http2(link).await?;
        if let Some(deadline) = Deadline::of(&head) {
            deadline.stamp(head.headers_mut());
        }
        let ready = http2.ready().map_err(|error| http2.explain(error))?;
        let body = Peeked::single(message);
        // A body that is whole needs no task.
        let (response, sent, _) = arm::send(ready, head, body, permit, &http2)?;
        match response.await {
            Ok(response) => Ok((response, sent)),
            Err(error) => Err(sent.explain(error)),
        }
    };
    tokio::pin!(answer, dial);
    // If the dial failed, its error is the reason, whatever the call reported.
    let (confirmed, answered) = tokio::select! {
        biased;
        confirmed = &mut dial => (confirmed, None),
        answered = &mut answer => ((&mut dial).await, Some(answered)),
    };
    let confirmed = match confirmed {
        Ok(confirmed) => confirmed,
        Err(error) => return Outcome::Failed(error.perhaps_processed()),
    };
    if !Arc::ptr_eq(confirmed.connection(), link) || !link.took_early_data() {
        return Outcome::Again(confirmed);
    }
    let answered = match answered {
        Some(answered) => answered,
        None => answer.await,
    };
    match answered {
        Ok((response, sent)) => Outcome::Answered(response, sent, confirmed),
        Err(error) => Outcome::Failed(error),
    }
}
