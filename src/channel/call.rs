//! One call, from request to response headers.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, OnceLock},
    task::Poll,
    time::Duration,
};

use http::{Request, Response, Uri, Version, header};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, body::Body};
use tower_iroh_layers::{Urgency, deadline::header as grpc_timeout, peek::Peeked, urgency};

use super::{Inner, body::ResponseBody};
use crate::{
    Error, ErrorKind,
    lane::{Http2, Ticket},
    links::{Link, Use},
    wire::reset,
};

/// How often a request that has not left is offered to another stream or connection.
const OFFERS: usize = 4;

/// What a call holds until its response has ended. Dropped earlier, the request's body stops and the call is reset.
pub(super) struct Held {
    _pump: Option<AbortOnDropHandle<()>>,
    _ticket: Ticket,
    http2: Arc<Http2>,
    link: Use<Link>,
    /// What the request's body failed with.
    body_failure: Arc<OnceLock<Status>>,
}

impl Held {
    /// What an HTTP/2 error means for this call; a connection that its peer is leaving takes no further one.
    pub(super) fn explain(&self, error: h2::Error) -> Error {
        if let Some(status) = self.body_failure.get() {
            return Error::with_status(ErrorKind::RequestBody, status.clone()).perhaps_processed();
        }
        let said_so = match error.reason() {
            Some(h2::Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
            Some(h2::Reason::REFUSED_STREAM) => error.is_reset() && error.is_remote(),
            _ => self.http2.activity().code().is_some_and(reset::is_refusal),
        };
        let error = explain(&self.link, &self.http2, error);
        if said_so {
            error
        } else {
            error.perhaps_processed()
        }
    }
}

fn explain(link: &Use<Link>, http2: &Http2, error: h2::Error) -> Error {
    let error = link.explain(error, http2);
    if error.kind() == ErrorKind::Draining {
        link.connection().retire();
    }
    error
}

pub(super) async fn call(
    channel: Arc<Inner>,
    request: Request<Body>,
) -> Result<Response<Body>, Error> {
    let (head, body) = request.into_parts();
    let mut head = Request::from_parts(head, ());
    let urgency = Urgency::requested(&head).unwrap_or(channel.urgency);
    let limit = match (grpc_timeout::read(head.headers()), channel.timeout) {
        (Some(theirs), Some(ours)) => Some(theirs.min(ours)),
        (theirs, ours) => theirs.or(ours),
    };
    let deadline = limit.map(Deadline::after);
    channel.prepare(&mut head, urgency)?;
    let mut offered = Some(body);
    let mut body = poll_fn(|cx| match offered.take() {
        Some(body) => Poll::Ready(Peeked::new(body, cx)),
        // Ready at the first poll, so there is no second.
        None => Poll::Pending,
    })
    .await;
    if let Some(status) = body.take_error() {
        return Err(Error::with_status(ErrorKind::RequestBody, status));
    }
    let message_len = body.message_len();

    let mut last = None;
    for _ in 0..OFFERS {
        // Kept until it has been asked: dropped, the last who waits for a dial takes along what it waited for.
        let mut getting = pin!(channel.links.get(channel.peer));
        let link = match within(deadline, getting.as_mut()).await {
            Some(link) => link?,
            None => return Err(channel.links.late(channel.peer)),
        };
        let ready = async {
            let ticket = link.lanes().enter(urgency, message_len).await?;
            let http2 = ticket.http2(&**link.connection()).await?;
            Ok::<_, Error>((ticket, http2))
        };
        let (ticket, http2) = match within(deadline, ready).await {
            Some(Ok(ready)) => ready,
            // Nothing has left, and a new connection may be better.
            Some(Err(error)) if error.kind() == ErrorKind::Lost => {
                last = Some(error);
                continue;
            }
            Some(Err(error)) => return Err(error),
            None => return Err(expired().at(channel.peer)),
        };
        if let Some(deadline) = deadline {
            grpc_timeout::write(head.headers_mut(), deadline.left());
        }
        let sender = match http2.ready() {
            Ok(sender) => sender,
            Err(error) => {
                // A GOAWAY with an error is about this lane alone.
                let leaving = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
                last = Some(explain(&link, &http2, error));
                if leaving {
                    // The peer is leaving: the calls that it has go on, this one goes to a new connection.
                    channel.links.retire(channel.peer, link.connection());
                } else {
                    ticket.replace(&http2);
                }
                continue;
            }
        };
        let sent = sender
            .send(head, body)
            .map_err(|error| explain(&link, &http2, error))?;
        let held = Held {
            _pump: match sent.pump {
                Some(pump) => pump.start().await,
                None => None,
            },
            _ticket: ticket,
            http2,
            link,
            body_failure: sent.body_failure,
        };
        return match within(deadline, sent.response).await {
            Some(Ok(response))
                if deadline.is_some_and(|deadline| {
                    grpc_timeout::ended_by_peer(response.headers(), deadline.left())
                }) =>
            {
                Err(expired().perhaps_processed().at(channel.peer))
            }
            Some(Ok(response)) => {
                Ok(response.map(|stream| Body::new(ResponseBody::new(stream, held, deadline))))
            }
            Some(Err(error)) => Err(held.explain(error)),
            None => Err(expired().perhaps_processed().at(channel.peer)),
        };
    }
    Err(last.unwrap_or_else(|| Error::new(ErrorKind::Lost, "no connection took the call")))
}

impl Inner {
    /// Makes the head what HTTP/2 and gRPC want of a request to this peer.
    fn prepare(&self, head: &mut Request<()>, urgency: Urgency) -> Result<(), Error> {
        let mut parts = std::mem::take(head.uri_mut()).into_parts();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        if parts.path_and_query.is_none() {
            parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        }
        *head.uri_mut() = Uri::from_parts(parts).map_err(|error| {
            Error::new(ErrorKind::InvalidPeer, "the request's URI is not valid").caused_by(error)
        })?;
        *head.version_mut() = Version::HTTP_2;
        let headers = head.headers_mut();
        headers
            .entry(header::USER_AGENT)
            .or_insert_with(|| self.user_agent.clone());
        if urgency != Urgency::default() || headers.contains_key(urgency::PRIORITY) {
            // One digit and two letters are a header value.
            if let Ok(value) = http::HeaderValue::try_from(urgency.to_string()) {
                headers.insert(urgency::PRIORITY, value);
            }
        }
        Ok(())
    }
}

/// When a call's time is over.
#[derive(Clone, Copy)]
pub(super) struct Deadline(pub(super) Instant);

impl Deadline {
    fn after(limit: Duration) -> Self {
        let now = Instant::now();
        // As tokio has it: some decades are as good as for ever.
        let far = Duration::from_secs(86400 * 365 * 30);
        Self(now.checked_add(limit).unwrap_or(now + far))
    }

    fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// What a caller is told whose time is over.
pub(super) fn expired() -> Error {
    Error::new(ErrorKind::Deadline, "the deadline passed")
}

/// The future's result, or nothing once the deadline has passed.
async fn within<F: Future>(deadline: Option<Deadline>, future: F) -> Option<F::Output> {
    match deadline {
        Some(Deadline(at)) => timeout_at(at, future).await.ok(),
        None => Some(future.await),
    }
}
