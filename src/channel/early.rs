//! A call that leaves before its connection's handshake is complete.
//!
//! What leaves then may be recorded on its way and delivered again, so only calls that may be done twice do. In return a call whose early
//! attempt came to nothing, for whichever reason, can go again on the connection that the dial ends with.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use tonic::body::Body;
use tower_iroh_layers::{Deadline, Idempotent, Urgency, peek::Peeked, retry::RetryPolicy};

use super::arm::{self, Sent};
use crate::{error::Error, http2::Carries, pool::Use};

/// The largest request that leaves early. HTTP/2 lets no more go before the server's settings are known (RFC 9113, section 6.9.2).
const MOST: u32 = 64 * 1024 - 1 - tower_iroh_layers::peek::PREFIX_LEN as u32;

/// Whether a call may leave early: it may be done twice, and all of its request is there.
pub(super) fn may_leave(head: &Request<()>, body: &Peeked<Body>, declared: &RetryPolicy) -> bool {
    let idempotent = head.extensions().get::<Idempotent>().is_some()
        || declared.is_idempotent(head.uri().path());
    idempotent && body.is_whole() && body.message_len().is_some_and(|len| len <= MOST)
}

/// How a call fared that left early.
pub(super) enum Outcome<L: Carries> {
    Answered(Response<h2::RecvStream>, Sent, Use<L>),
    Failed(Error),
    /// The peer has not taken it, or not on this connection. It is to go again, on this one.
    Again(Use<L>),
}

/// Sends a call on a connection that is not complete yet, and waits for its answer and for the handshake.
///
/// `dial` is the dial that the connection belongs to, whose task is the pool's. Nothing that the peer sends is believed before the dial has succeeded.
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
        let (response, sent) = arm::send(ready, head, body, permit, &http2)
            .await
            .map_err(|error| http2.explain(error))?;
        match response.await {
            Ok(response) => Ok((response, sent)),
            Err(error) => Err(sent.explain(error)),
        }
    };
    tokio::pin!(answer, dial);
    // A dial that has failed is the reason, whatever it did to the call.
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
