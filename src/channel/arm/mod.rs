//! One call over either transport, from the request to the response's headers.

use std::{
    future::{Future, pending, poll_fn},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header};
use iroh::EndpointId;
use pin_project_lite::pin_project;
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, body::Body};
use tower::Service;
use tower_iroh_layers::{
    BoxError, Deadline, Methods, Origin, Urgency,
    breaker::Probing,
    buffer::BufferConfig,
    peek::Peeked,
    unsent::{Kept, Unsent},
    urgency,
};

use super::{
    body::ResponseBody,
    details,
    early::{self, Outcome},
};
use crate::{
    error::{Error, ErrorKind},
    http2::{Carries, Http2, LanePermit, NoStream, Ready},
    pool::{AnyUse, Dialer, Pool, State, Use},
};

mod connection_ready;

use connection_ready::ConnectionReady;

/// How often a request that has not left is offered to another stream or connection.
const OFFERS: usize = 4;

/// What a call holds until its response has ended. Dropping it earlier stops the request's body and resets the call.
pub(super) struct InFlight {
    sent: Sent,
    _link: AnyUse,
}

impl InFlight {
    fn new<L: Carries>(sent: Sent, link: Use<L>) -> Self {
        let _link = link.into();
        Self { sent, _link }
    }

    pub(super) fn explain(&self, error: h2::Error) -> Error {
        self.sent.explain(error)
    }

    /// Checks the size of the response's headers, or of its trailers.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Error> {
        self.sent.http2.header_list().check_response(headers)
    }
}

/// A call that was sent, and its permit.
pub(super) struct Sent {
    pump: Option<AbortOnDropHandle<()>>,
    _permit: LanePermit,
    http2: Arc<Http2>,
    /// The error of the request's body.
    body_failure: Arc<OnceLock<Status>>,
}

/// The task that moves a streaming request's body, as soon as it runs. In a box, since most requests are sent whole.
pub(super) type Pumping = BoxFuture<'static, Option<AbortOnDropHandle<()>>>;

/// Sends a call. If the body follows as a stream, what the future yields becomes the call's `pump`.
pub(super) fn send(
    ready: Ready,
    head: Request<()>,
    body: Peeked<Body>,
    permit: LanePermit,
    http2: &Arc<Http2>,
) -> Result<(h2::client::ResponseFuture, Sent, Option<Pumping>), Error> {
    http2.header_list().check_request(head.headers())?;
    let sent = ready
        .send(head, body)
        .map_err(|error| http2.explain(error))?;
    let pumping = sent.pump.map(|pump| Box::pin(pump.start()) as Pumping);
    let going = Sent {
        pump: None,
        _permit: permit,
        http2: http2.clone(),
        body_failure: sent.body_failure,
    };
    Ok((sent.response, going, pumping))
}

impl Sent {
    /// What an HTTP/2 error means for this call.
    pub(super) fn explain(&self, error: h2::Error) -> Error {
        match self.body_failure.get() {
            Some(status) => {
                Error::with_status(ErrorKind::RequestBody, status.clone()).perhaps_processed()
            }
            None => self.http2.explain_sent(error),
        }
    }
}

/// One transport's arm: gets a connection to the peer and a permit of a lane, and sends the call.
///
/// **Readiness.** By default always ready: a call waits for the dial and for its permit in its own future, until the deadline in its extensions,
/// and for the dial no longer than fail fast waits.
/// Once the call is sent, the deadline layer above ends it. An arm that [waits](Self::waiting) is ready once it is connected, or once the
/// call can return an error.
///
/// **Cancel safety.** Dropping the future or the body resets the call at the peer and releases its permit. The pool's dial
/// goes on.
pub(super) struct Arm<D: Dialer> {
    inner: Arc<Inner<D>>,
    waits: bool,
    /// Only while it waits.
    readying: Option<ConnectionReady>,
}

impl<D: Dialer> Clone for Arm<D> {
    /// A clone carries no readiness.
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            waits: self.waits,
            readying: None,
        }
    }
}

/// What all requests of a channel have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) scheme: http::uri::Scheme,
    pub(super) authority: http::uri::Authority,
    pub(super) user_agent: HeaderValue,
}

/// How long a call waits for a dial that is not answered.
#[derive(Clone)]
pub(super) struct Patience {
    /// As long as fail fast waits.
    pub(super) wait: Duration,
    /// A call that it serves waits for the dial.
    pub(super) buffer: BufferConfig,
    pub(super) methods: Methods,
}

struct Inner<D: Dialer> {
    links: Pool<D>,
    peer: EndpointId,
    common: Common,
    /// Which methods are idempotent, if early data is on.
    early_data: Option<Methods>,
    patience: Option<Patience>,
    /// How much of a request is kept, after it was sent, in case the peer refuses it; `None` if nobody sends it again.
    keep: Option<usize>,
    state: watch::Receiver<State>,
}

impl<D: Dialer<Connection: Carries>> Arm<D> {
    pub(super) fn new(
        links: Pool<D>,
        peer: EndpointId,
        common: Common,
        methods: &Methods,
        patience: Option<Patience>,
        keep: Option<usize>,
    ) -> Self {
        let sends_early_data = links.dialer().sends_early_data();
        let early_data = sends_early_data.then(|| methods.clone());
        Self {
            inner: Arc::new(Inner {
                state: links.watch(peer),
                links,
                peer,
                common,
                early_data,
                patience,
                keep,
            }),
            waits: false,
            readying: None,
        }
    }
}

impl<D: Dialer<Connection: Carries>> Service<Request<Body>> for Arm<D> {
    type Response = Response<ResponseBody>;
    /// A call that never left comes back in an [`Unsent`] error.
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<ResponseBody>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.poll_connection(cx).map(Ok)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        let head = Request::from_parts(head, ());
        Box::pin(call(self.inner.clone(), head, body))
    }
}

async fn call<D: Dialer<Connection: Carries>>(
    arm: Arc<Inner<D>>,
    mut head: Request<()>,
    body: Body,
) -> Result<Response<ResponseBody>, BoxError> {
    let urgency = Urgency::of(&head);
    let deadline = Deadline::of(&head);
    if head.extensions().get::<Probing>().is_some() {
        arm.links.hurry(arm.peer);
    }
    arm.prepare(&mut head, urgency)?;
    // A block, so that the body's place in the future is free for what comes after it.
    let departed = {
        let mut body = peeked(body).await;
        if let Some(status) = body.take_error() {
            return Err(Error::with_status(ErrorKind::RequestBody, status).into());
        }
        match arm.find(&head, &mut body, urgency, deadline).await {
            Ok(Found::Way(way)) => arm.depart(head, body, way, deadline)?,
            Ok(Found::Answered(response)) => return Ok(response),
            Err(error) if error.not_processed() => {
                return Err(Unsent::wrap(error, head.map(|()| Body::new(body))));
            }
            Err(error) => return Err(error.into()),
        }
    };
    let Departed {
        response,
        mut held,
        pumping,
        kept,
    } = departed;
    if let Some(pumping) = pumping {
        held.sent.pump = pumping.await;
    }
    // From here on the deadline layer above ends the call by dropping it.
    let answered = match response.await {
        Ok(response) => answer(response, held),
        Err(error) => Err(held.explain(error)),
    };
    match answered {
        Ok(response) => {
            if let Some(kept) = kept {
                kept.commit();
            }
            Ok(response)
        }
        Err(error) => Err(give_back(error, kept)),
    }
}

/// A call that was sent.
struct Departed {
    response: h2::client::ResponseFuture,
    held: InFlight,
    pumping: Option<Pumping>,
    /// What is kept of the request in case the peer refuses it.
    kept: Option<Kept>,
}

/// An error, with the request if the peer provably has not begun it.
#[cold]
fn give_back(error: Error, kept: Option<Kept>) -> BoxError {
    let kept = kept.filter(|_| error.not_processed());
    match kept.and_then(Kept::take_back) {
        Some(request) => Unsent::wrap(error, request),
        None => error.into(),
    }
}

fn answer(
    mut response: Response<h2::RecvStream>,
    held: InFlight,
) -> Result<Response<ResponseBody>, Error> {
    held.check(response.headers())?;
    details::drop_unreadable(response.headers_mut());
    Ok(response.map(|stream| ResponseBody::new(stream, held)))
}

/// Peeks at the part of the body that is ready.
async fn peeked(body: Body) -> Peeked<Body> {
    let mut offered = Some(body);
    poll_fn(|cx| match offered.take() {
        Some(body) => Poll::Ready(Peeked::new(body, cx)),
        // Ready at the first poll, so there is no second.
        None => Poll::Pending,
    })
    .await
}

/// The connection on which a call can be sent.
enum Reached<L: Carries> {
    Link(Use<L>),
    /// The handshake is not complete; the dial is still under way.
    Early(Arc<L>),
}

/// What a call is sent with.
struct Way<L: Carries> {
    ready: Ready,
    permit: LanePermit,
    http2: Arc<Http2>,
    link: Use<L>,
}

enum Found<L: Carries> {
    Way(Way<L>),
    Answered(Response<ResponseBody>),
}

impl<D: Dialer<Connection: Carries>> Inner<D> {
    /// What it takes to send a call: a connection to the peer, a permit, and a stream that takes calls. Or its answer, if it was sent early.
    async fn find(
        &self,
        head: &Request<()>,
        body: &mut Peeked<Body>,
        urgency: Urgency,
        deadline: Option<Deadline>,
    ) -> Result<Found<D::Connection>, Error> {
        let message_len = body.message_len();
        let declared = self.early_data.as_ref();
        let early = declared.is_some_and(|declared| early::may_leave(head, body, declared));
        let mut last = None;
        let mut offers = OFFERS;
        while offers > 0 {
            let link = match self.links.get_now(self.peer) {
                Some(link) => link,
                // Boxed, to keep the future of calls that find a connection small.
                None => {
                    let mut getting = Box::pin(self.get());
                    match Box::pin(within(deadline, self.reach(getting.as_mut(), early, head)))
                        .await
                    {
                        Some(Ok(Reached::Link(link))) => link,
                        Some(Ok(Reached::Early(link))) => match body.take_single() {
                            Some(message) => {
                                let (head, copy) = (head.clone(), message.clone());
                                let attempt = early::attempt(&link, getting, head, copy, urgency);
                                match Box::pin(attempt).await {
                                    Outcome::Answered(response, sent, link) => {
                                        let response = answer(response, InFlight::new(sent, link))?;
                                        return Ok(Found::Answered(response));
                                    }
                                    Outcome::Failed(error) => {
                                        *body = Peeked::single(message);
                                        return Err(error);
                                    }
                                    Outcome::Again(link) => {
                                        *body = Peeked::single(message);
                                        link
                                    }
                                }
                            }
                            // With trailers.
                            None => getting.await?,
                        },
                        Some(Err(error)) => return Err(error),
                        None => return Err(self.links.late(self.peer).at(self.peer)),
                    }
                }
            };
            let acquired = within(deadline, link.lanes().acquire(urgency, message_len)).await;
            let permit = match acquired {
                Some(Ok(permit)) => permit,
                // The link takes no further call; the next attempt gets another link.
                Some(Err(NoStream::Closed)) => continue,
                Some(Err(error)) => return Err(error.into()),
                None => {
                    // A full lane is backpressure, not a failure of the peer.
                    let late = Error::new(
                        ErrorKind::Deadline,
                        "the deadline passed while the call waited for a place",
                    );
                    return Err(late.blamed_on(Origin::Ours).at(self.peer));
                }
            };
            let http2 = match permit.open() {
                Some(http2) => http2,
                // Boxed, to keep the future of calls that find the stream open small.
                None => match Box::pin(within(deadline, permit.http2(link.connection()))).await {
                    Some(Ok(http2)) => http2,
                    Some(Err(NoStream::Closed | NoStream::Paused(_))) => continue,
                    // Nothing was sent, so another connection can take the call.
                    Some(Err(NoStream::Failed(error))) if error.kind() == ErrorKind::Lost => {
                        last = Some(error);
                        offers -= 1;
                        continue;
                    }
                    Some(Err(NoStream::Failed(error))) => return Err(error),
                    None => {
                        let late = Error::new(
                            ErrorKind::Deadline,
                            "the deadline passed while a stream to the peer was being opened",
                        );
                        return Err(late.at(self.peer));
                    }
                },
            };
            let ready = match http2.ready() {
                Ok(ready) => ready,
                Err(error) => {
                    // A GOAWAY with an error is about this lane alone.
                    let leaving =
                        error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
                    last = Some(http2.explain(error));
                    if leaving {
                        // The peer is shutting down: its open calls go on, this call goes to a new connection.
                        self.links.retire(self.peer, link.connection());
                    } else {
                        permit.replace(&http2);
                    }
                    offers -= 1;
                    continue;
                }
            };
            return Ok(Found::Way(Way {
                ready,
                permit,
                http2,
                link,
            }));
        }
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::Lost, "no connection took the call")))
    }

    /// Sends a call.
    fn depart(
        &self,
        head: Request<()>,
        body: Peeked<Body>,
        way: Way<D::Connection>,
        deadline: Option<Deadline>,
    ) -> Result<Departed, BoxError> {
        let (kept, mut head, body) = match self.keep {
            Some(limit) => Kept::new(head, body, limit),
            None => (None, head, body),
        };
        if let Some(deadline) = deadline {
            deadline.stamp(head.headers_mut());
        }
        match send(way.ready, head, body, way.permit, &way.http2) {
            Ok((response, sent, pumping)) => Ok(Departed {
                response,
                held: InFlight::new(sent, way.link),
                pumping,
                kept,
            }),
            Err(error) => Err(give_back(error, kept)),
        }
    }

    /// The connection to the peer; dials if there is none.
    async fn get(&self) -> Result<Use<D::Connection>, Error> {
        let got = self.links.get(self.peer).await;
        got.map_err(|error| error.at(self.peer))
    }

    /// The connection; for a call that may be sent early, also one whose handshake is not complete.
    async fn reach(
        &self,
        mut getting: Pin<&mut impl Future<Output = Result<Use<D::Connection>, Error>>>,
        early: bool,
        head: &Request<()>,
    ) -> Result<Reached<D::Connection>, Error> {
        // Most calls find a connection.
        if let Poll::Ready(link) = poll_fn(|cx| Poll::Ready(getting.as_mut().poll(cx))).await {
            return link.map(Reached::Link);
        }
        tokio::select! {
            biased;
            link = getting => link.map(Reached::Link),
            link = self.links.early(self.peer), if early => Ok(Reached::Early(link)),
            error = self.unanswered(head) => Err(error),
        }
    }

    /// Ends when the peer has not answered its dial for as long as fail fast waits. The dial goes on, for the calls that come later.
    async fn unanswered(&self, head: &Request<()>) -> Error {
        let wait = match &self.patience {
            Some(patience) if !patience.buffer.serves(head, &patience.methods) => patience.wait,
            _ => return pending().await,
        };
        loop {
            let now = Instant::now();
            let dial = self.links.unanswered(self.peer);
            // A dial that waits for a slot has not begun, and the pool bounds that wait.
            let due = dial.map_or(now, |(since, _)| since) + wait;
            match dial {
                Some((_, incident)) if due <= now => {
                    let message = format!(
                        "the peer has not answered the dial for {wait:?}, so this call was not sent; the dial goes on. \
                         Try again later, or make it a call that waits for the peer"
                    );
                    let error = Error::new(ErrorKind::DialTimeout, message);
                    return error.of(incident).at(self.peer);
                }
                _ => sleep_until(due).await,
            }
        }
    }

    /// Turns the head into a valid HTTP/2 and gRPC request to this peer.
    fn prepare(&self, head: &mut Request<()>, urgency: Urgency) -> Result<(), Error> {
        let mut parts = std::mem::take(head.uri_mut()).into_parts();
        parts.scheme = Some(self.common.scheme.clone());
        parts.authority = Some(self.common.authority.clone());
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
            .or_insert_with(|| self.common.user_agent.clone());
        if urgency != Urgency::default() || headers.contains_key(urgency::PRIORITY) {
            // One digit and two letters are a header value.
            if let Ok(value) = http::HeaderValue::try_from(urgency.to_string()) {
                headers.insert(urgency::PRIORITY, value);
            }
        }
        Ok(())
    }
}

/// The future's result, or `None` once the deadline has passed. Written by hand: an async function would keep `future` twice.
fn within<F: Future>(deadline: Option<Deadline>, future: F) -> Within<F> {
    Within {
        future,
        deadline,
        timer: None,
    }
}

pin_project! {
    struct Within<F> {
        #[pin]
        future: F,
        deadline: Option<Deadline>,
        // From the first wait on; in a box, so that the future of a call that does not wait is no larger for it.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future> Future for Within<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Some(output));
        }
        let Some(deadline) = *this.deadline else {
            return Poll::Pending;
        };
        let timer = this
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline.instant())));
        // The clock too, and not the timer alone: that of the layer above may fire first.
        match timer.as_mut().poll(cx).is_ready() || deadline.is_over() {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quic::QuicDialer;

    fn size_of_future<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// Each call has one, which is moved into its box. It was 3,496 bytes once.
    #[test]
    fn the_future_of_a_call_does_not_grow() {
        let size = size_of_future(call::<QuicDialer>);
        assert!(size <= 1640, "{size} bytes");
    }
}
