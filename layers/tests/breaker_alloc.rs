//! Closed and successful, the breaker allocates nothing.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use tower::Service;
use tower_iroh_layers::breaker::{Breaker, Circuit};

/// A body of data and the trailers that it was made with.
struct Answer(bool, Option<HeaderMap>);

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if std::mem::take(&mut self.0) {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\0")))));
        }
        Poll::Ready(self.1.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

/// Answers with the trailers that the request brought, so that it allocates nothing itself.
#[derive(Clone)]
struct Echo;

impl Service<Request<HeaderMap>> for Echo {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Answer>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<HeaderMap>) -> Self::Future {
        ready(Ok(Response::new(Answer(true, Some(request.into_body())))))
    }
}

#[test]
fn closed_and_successful_allocates_nothing() {
    let circuit = Circuit::new(Default::default());
    let mut service = Breaker::new(Echo, circuit.clone());
    let mut cx = Context::from_waker(Waker::noop());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", 0.into());
    let requests: Vec<_> = (0..1000).map(|_| Request::new(trailers.clone())).collect();
    let mut answers = Vec::with_capacity(requests.len());
    let counted = allocation_counter::measure(|| {
        for request in requests {
            let ready: Poll<_> = Service::<Request<HeaderMap>>::poll_ready(&mut service, &mut cx);
            assert!(ready.is_ready());
            let mut call = pin!(service.call(request));
            let Poll::Ready(Ok(response)) = call.as_mut().poll(&mut cx) else {
                panic!("it answers at once");
            };
            let mut body = pin!(response.into_body());
            let mut frames = 0;
            while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut cx) {
                frames += 1;
                if let Ok(trailers) = frame.into_trailers() {
                    answers.push(trailers);
                }
            }
            assert_eq!(frames, 2);
        }
    });
    assert_eq!(counted.count_total, 0, "{counted:?}");
    assert_eq!(circuit.statistics().calls, 1000, "each was counted");
}
