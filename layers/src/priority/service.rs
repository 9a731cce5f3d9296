use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::{HeaderValue, Request};
use tonic::body::Body;
use tower::{Layer, Service};

use super::PriorityConfig;
use crate::{Methods, Urgency, peek::Peeked, urgency::PRIORITY};

/// Decides how urgent each request is: see the [module](super).
#[derive(Clone, Debug)]
pub struct PriorityLayer {
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    config: PriorityConfig,
    methods: Methods,
    meter: std::sync::LazyLock<super::meter::Meter>,
}

impl PriorityLayer {
    /// Decides by `config` if a request has no urgency of its own.
    pub fn new(config: PriorityConfig) -> Self {
        Self::of(config, Methods::default())
    }

    /// Takes each method's urgency from the table, in place of the fallback.
    pub fn methods(self, methods: Methods) -> Self {
        Self::of(self.rules.config.clone(), methods)
    }

    /// Decides for one request and marks it, as the service does.
    pub fn decide(&self, request: &mut Request<Body>) {
        self.rules.decide(request);
    }

    fn of(config: PriorityConfig, methods: Methods) -> Self {
        Self {
            rules: Arc::new(Rules {
                config,
                methods,
                meter: super::meter::Meter::new(),
            }),
        }
    }
}

impl Default for PriorityLayer {
    fn default() -> Self {
        Self::new(PriorityConfig::default())
    }
}

impl<S> Layer<S> for PriorityLayer {
    type Service = Priority<S>;

    fn layer(&self, inner: S) -> Priority<S> {
        Priority {
            inner,
            rules: self.rules.clone(),
        }
    }
}

/// The service that [`PriorityLayer`] makes. It has no error of its own. A clone is as ready as the inner service's clone.
#[derive(Clone, Debug)]
pub struct Priority<S> {
    inner: S,
    rules: Arc<Rules>,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Priority<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> S::Future {
        self.rules.decide(&mut request);
        self.inner.call(request)
    }
}

impl Rules {
    fn decide(&self, request: &mut Request<Body>) {
        let mut lowered = false;
        let in_header = Urgency::from_headers(request.headers());
        // In the order of `Urgency::requested`.
        let asked = request.extensions().get::<Urgency>().copied().or(in_header);
        let urgency = match asked {
            Some(urgency) => urgency,
            None => {
                let entry = self.methods.get(request.uri().path());
                let urgency = entry.urgency().unwrap_or(self.config.fallback);
                match self.config.lowered_from(urgency) {
                    Some((large, less)) => {
                        lowered = is_large(request, large);
                        if lowered { less } else { urgency }
                    }
                    None => urgency,
                }
            }
        };
        self.meter.calls[usize::from(urgency.get())].increment(1);
        if lowered {
            self.meter.lowered.increment(1);
        }
        // An urgency in the header already stays; without a header it is the default.
        if in_header.unwrap_or_default() != urgency {
            request.headers_mut().insert(PRIORITY, header(urgency));
        }
    }
}

/// Whether the first message has at least `large` bytes, as far as that is known now. The body is whole again afterwards.
fn is_large(request: &mut Request<Body>, large: usize) -> bool {
    let body = std::mem::take(request.body_mut());
    // This read need not wake anything: the code that sends the body polls it again, and is woken.
    let body = Peeked::new(body, &mut Context::from_waker(Waker::noop()));
    let len = body.message_len();
    *request.body_mut() = Body::new(body);
    len.is_some_and(|len| len as usize >= large)
}

fn header(urgency: Urgency) -> HeaderValue {
    const VALUES: [&str; 8] = ["u=0", "u=1", "u=2", "u=3", "u=4", "u=5", "u=6", "u=7"];
    HeaderValue::from_static(VALUES[usize::from(urgency.get())])
}
