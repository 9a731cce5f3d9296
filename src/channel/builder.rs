use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Uri, uri::Scheme};
use http_body::Body as HttpBody;
use iroh::{Endpoint, EndpointId, SecretKey};
use tower::Layer;
use tower_iroh_layers::{ConfigError, Methods, Urgency, select::SelectHandle};

use super::{
    Arm, ArmContext, Attempts, Channel, EitherArm, Stack, StackBuilder,
    arm::Common,
    transport::{self, AroundAttempts, AttemptService},
};
use crate::{
    http2::Lanes,
    peer::{Peer, TransportKind},
    quic::{Links, LinksBuilder, Tuning},
    tcp::{TcpLinks, TcpLinksBuilder},
};

/// Settings of a [`Channel`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_iroh::{Channel, Peer, Urgency, presets};
///
/// let endpoint = iroh::Endpoint::bind(presets::Offline).await?;
/// let peer = Peer::new(iroh::SecretKey::from_bytes(&[1; 32]).public());
/// let channel = Channel::builder(endpoint.clone())
///     .peer(peer)
///     .user_agent("my-service/1.0")
///     .urgency(Urgency::BULK)
///     .build()?;
/// # drop(channel);
/// let error = Channel::builder(endpoint).build().unwrap_err();
/// assert_eq!(error.field(), "channel.peer");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ChannelBuilder {
    iroh: Option<Given<LinksBuilder, Links>>,
    tcp: Option<Given<TcpLinksBuilder, TcpLinks>>,
    /// A setting that the channel's links cannot take, and why.
    contradiction: Option<(&'static str, Why)>,
    select: Option<SelectHandle>,
    /// Whether the selection's policy includes the table of methods already, so that `build` does not apply it again.
    keeps_policy: bool,
    /// The lanes of links over TCP that `build` makes.
    lanes: Option<Lanes>,
    peer: Option<Peer>,
    user_agent: Option<String>,
    origin: Option<Uri>,
    max_message_size: Option<u32>,
    max_header_list_size: Option<u32>,
    around_attempts: Option<AroundAttempts>,
    stack: StackBuilder,
}

/// The channel's own links, which `build` makes, or links that several channels share.
#[derive(Clone, Debug)]
enum Given<B, L> {
    Own(B),
    Shared(L),
}

#[derive(Clone, Copy, Debug)]
enum Why {
    Shared,
    OtherTransport,
}

impl ChannelBuilder {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        let links = Given::Own(Links::builder(endpoint));
        Self::leading(Some(links), None)
    }

    pub(super) fn with_links(links: Links) -> Self {
        Self::leading(Some(Given::Shared(links)), None)
    }

    #[cfg(feature = "tcp")]
    pub(super) fn tcp(key: SecretKey) -> Self {
        let links = Given::Own(TcpLinks::builder(key));
        Self::leading(None, Some(links))
    }

    pub(super) fn with_tcp_links(links: TcpLinks) -> Self {
        Self::leading(None, Some(Given::Shared(links)))
    }

    fn leading(
        iroh: Option<Given<LinksBuilder, Links>>,
        tcp: Option<Given<TcpLinksBuilder, TcpLinks>>,
    ) -> Self {
        Self {
            iroh,
            tcp,
            contradiction: None,
            select: None,
            keeps_policy: false,
            lanes: None,
            peer: None,
            user_agent: None,
            origin: None,
            max_message_size: None,
            max_header_list_size: None,
            around_attempts: None,
            stack: Stack::builder(),
        }
    }

    /// Adds TCP as a second transport; the policy of `select` chooses between the two for each call. The channel must begin with an endpoint or with links over
    /// iroh, whose identity it proves over TCP as well. The peer needs [a TCP address](crate::Peer::with_tcp); without one, calls over TCP fail.
    ///
    /// ```
    /// # async fn example(endpoint: iroh::Endpoint, peer: tower_iroh::Peer) -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_iroh::layers::{MethodConfig, Methods, select::{Choice, SelectHandle}};
    /// use tower_iroh::TransportKind;
    ///
    /// let over_tcp = MethodConfig::new().transport(Choice::Fixed(TransportKind::Tcp.arm()));
    /// let methods = Methods::builder().method("/shop.v1.Orders/*", over_tcp).build()?;
    /// let select = SelectHandle::new(Choice::Prefer(TransportKind::Iroh.arm()));
    /// let channel = tower_iroh::Channel::builder(endpoint)
    ///     .peer(peer)
    ///     .select(select.clone())
    ///     .methods(methods)
    ///     .build()?;
    /// // Later, and for the calls from then on:
    /// select.swap(TransportKind::Tcp.arm());
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tcp")]
    pub fn select(mut self, select: SelectHandle) -> Self {
        self.select = Some(select);
        self
    }

    /// The same, for a handle whose policy the table of methods does not change.
    pub(crate) fn select_by(mut self, select: SelectHandle) -> Self {
        self.keeps_policy = true;
        self.select = Some(select);
        self
    }

    /// Shared links over TCP for a channel with [`select`](Self::select). Shared links keep their own settings, so `build` refuses them together with
    /// [`tcp_links`](Self::tcp_links).
    pub fn shared_tcp_links(mut self, links: TcpLinks) -> Self {
        if let Some(Given::Own(_)) = self.tcp {
            self.contradiction = Some(("channel.tcp_links", Why::Shared));
        }
        self.tcp = Some(Given::Shared(links));
        self
    }

    /// The peer to call, with its addresses. Required.
    pub fn peer(mut self, peer: impl Into<Peer>) -> Self {
        self.peer = Some(peer.into());
        self
    }

    /// What is configured per method: timeout, wait for ready, idempotent, retry policy, buffering, urgency, transport. See [`methods`](tower_iroh_layers::methods).
    ///
    /// `build` puts the table's transports into the policy of [`select`](Self::select), unless that policy has a table of its own. A policy that is put in force later
    /// replaces them.
    ///
    /// ```
    /// # async fn example(endpoint: iroh::Endpoint, peer: tower_iroh::Peer) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use tower_iroh::layers::{MethodConfig, Methods, Urgency};
    ///
    /// let methods = Methods::builder()
    ///     .method("*", MethodConfig::new().timeout(Duration::from_secs(5)))
    ///     .method("/shop.v1.Stock/Get", MethodConfig::new().idempotent(true))
    ///     .method("/shop.v1.Orders/*", MethodConfig::new().wait_for_ready(true).urgency(Urgency::CONTROL))
    ///     .build()?;
    /// let channel = tower_iroh::Channel::builder(endpoint).peer(peer).methods(methods).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn methods(self, methods: Methods) -> Self {
        self.stack(|stack| stack.methods(methods))
    }

    /// The longest time that a call may take, to the end of its response, where its method has no timeout. Default: the call's own deadline, if it has one.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.stack(|stack| stack.timeout(timeout))
    }

    /// The application's name in the `user-agent` header, before `tower-iroh/<version>`. Default: none.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = Some(user_agent.into());
        self
    }

    /// The `:scheme` and `:authority` of the requests, as tonic's `Endpoint::origin` sets them: for a server that looks at them, such as a gateway or one with
    /// virtual hosts. Default: `http` and the peer's id.
    ///
    /// ```
    /// # async fn example(endpoint: iroh::Endpoint, peer: tower_iroh::Peer) -> Result<(), Box<dyn std::error::Error>> {
    /// let channel = tower_iroh::Channel::builder(endpoint)
    ///     .peer(peer)
    ///     .origin("https://shop.example".parse()?)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn origin(mut self, origin: Uri) -> Self {
        self.origin = Some(origin);
        self
    }

    /// The largest message of a response, in bytes on the wire. A larger message ends the response with RESOURCE_EXHAUSTED before its bytes are
    /// buffered. Default: unlimited; a generated client itself refuses more than 4 MiB, unless its `max_decoding_message_size` is raised.
    pub fn max_message_size(mut self, bytes: u32) -> Self {
        self.max_message_size = Some(bytes);
        self
    }

    /// The urgency of calls that set none and whose method has none. Default [`Urgency::INTERACTIVE`].
    pub fn urgency(self, urgency: Urgency) -> Self {
        self.stack(|stack| stack.urgency(urgency))
    }

    /// Configures the channel's layers: see [`Stack`].
    ///
    /// ```
    /// # async fn example(endpoint: iroh::Endpoint, peer: tower_iroh::Peer) -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_iroh::layers::{buffer::BufferConfig, retry::RetryPolicy};
    ///
    /// let retry = RetryPolicy::builder().max_attempts(5).build()?;
    /// let buffer = BufferConfig::builder().max_calls(100).build()?;
    /// let channel = tower_iroh::Channel::builder(endpoint)
    ///     .peer(peer)
    ///     .stack(|stack| stack.retry(retry).buffer(buffer).without_fail_fast())
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn stack(mut self, configure: impl FnOnce(StackBuilder) -> StackBuilder) -> Self {
        self.stack = configure(self.stack);
        self
    }

    /// The lanes of the channel's own links, over either transport. Default [`Lanes::standard`].
    pub fn lanes(mut self, lanes: Lanes) -> Self {
        if self.iroh.is_some() {
            self = self.own("channel.lanes", |links| links.lanes(lanes.clone()));
        }
        match self.tcp {
            Some(_) => self.own_tcp("channel.lanes", |links| links.lanes(lanes)),
            None => Self {
                lanes: Some(lanes),
                ..self
            },
        }
    }

    /// The largest list of headers or trailers in a response: see [`Lanes::max_header_list_size`], whatever [`lanes`](Self::lanes) says. For channels with
    /// their own links. Default 16 KiB.
    pub fn max_header_list_size(mut self, bytes: u32) -> Self {
        self.max_header_list_size = Some(bytes);
        self
    }

    /// Windows and congestion control of the channel's own links. Default [`Tuning::auto`].
    pub fn tuning(self, tuning: Tuning) -> Self {
        self.own("channel.tuning", |links| links.tuning(tuning))
    }

    /// Whether idempotent calls are sent with the first packets of a dial: see [`LinksBuilder::early_data`]. Default off.
    ///
    /// ```
    /// # async fn example(endpoint: iroh::Endpoint, peer: tower_iroh::Peer) -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_iroh::layers::{MethodConfig, Methods};
    ///
    /// let methods = Methods::builder()
    ///     .method("/shop.v1.Stock/Get", MethodConfig::new().idempotent(true))
    ///     .build()?;
    /// let channel = tower_iroh::Channel::builder(endpoint)
    ///     .peer(peer)
    ///     .methods(methods)
    ///     .early_data(true)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn early_data(self, early_data: bool) -> Self {
        self.own("channel.early_data", |links| links.early_data(early_data))
    }

    /// Any other setting of the channel's own links.
    ///
    /// ```
    /// # async fn example(endpoint: iroh::Endpoint, peer: tower_iroh::Peer) -> Result<(), tower_iroh::ConfigError> {
    /// # use std::time::Duration;
    /// let channel = tower_iroh::Channel::builder(endpoint)
    ///     .peer(peer)
    ///     .links(|links| links.dial_timeout(Duration::from_secs(2)))
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn links(self, configure: impl FnOnce(LinksBuilder) -> LinksBuilder) -> Self {
        self.own("channel.links", configure)
    }

    /// Any other setting of the channel's own links over TCP.
    ///
    /// ```
    /// # fn example(key: iroh::SecretKey, peer: tower_iroh::Peer) -> Result<(), tower_iroh::ConfigError> {
    /// # use std::time::Duration;
    /// let channel = tower_iroh::Channel::tcp(key)
    ///     .peer(peer)
    ///     .tcp_links(|links| links.dial_timeout(Duration::from_secs(2)))
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tcp")]
    pub fn tcp_links(self, configure: impl FnOnce(TcpLinksBuilder) -> TcpLinksBuilder) -> Self {
        self.own_tcp("channel.tcp_links", configure)
    }

    /// A setting of the links over TCP.
    fn own_tcp(
        mut self,
        setting: &'static str,
        configure: impl FnOnce(TcpLinksBuilder) -> TcpLinksBuilder,
    ) -> Self {
        let Some(own) = self.tcp.take().or_else(|| self.new_tcp()) else {
            return self;
        };
        self.tcp = Some(match own {
            Given::Own(links) => Given::Own(configure(links)),
            shared => {
                self.contradiction = Some((setting, Why::Shared));
                shared
            }
        });
        self
    }

    /// A setting of iroh's links.
    fn own(
        mut self,
        setting: &'static str,
        configure: impl FnOnce(LinksBuilder) -> LinksBuilder,
    ) -> Self {
        self.iroh = match self.iroh {
            Some(Given::Own(links)) => Some(Given::Own(configure(links))),
            Some(shared) => {
                self.contradiction = Some((setting, Why::Shared));
                Some(shared)
            }
            None => {
                self.contradiction = Some((setting, Why::OtherTransport));
                None
            }
        };
        self
    }

    /// Links over TCP beside those over iroh, with the key that the channel proves there.
    #[cfg(feature = "tcp")]
    fn new_tcp(&self) -> Option<Given<TcpLinksBuilder, TcpLinks>> {
        let endpoint = match self.iroh.as_ref()? {
            Given::Own(links) => links.endpoint(),
            Given::Shared(links) => links.endpoint(),
        };
        let links = TcpLinks::builder(endpoint.secret_key().clone());
        Some(Given::Own(match &self.lanes {
            Some(lanes) => links.lanes(lanes.clone()),
            None => links,
        }))
    }

    #[cfg(not(feature = "tcp"))]
    fn new_tcp(&self) -> Option<Given<TcpLinksBuilder, TcpLinks>> {
        None
    }

    /// Puts a layer of your own around each attempt of a call: below the breaker, which counts what the layer answers, and over each transport that the
    /// channel has. A layer around whole calls needs no setting: a channel is a service, so `ServiceBuilder` puts it around the channel.
    ///
    /// ```
    /// # async fn example(endpoint: iroh::Endpoint, peer: tower_iroh::Peer) -> Result<(), tower_iroh::ConfigError> {
    /// use http::{HeaderValue, Request};
    /// use tonic::body::Body;
    /// use tower::{ServiceBuilder, util::MapRequestLayer};
    ///
    /// let mark = MapRequestLayer::new(|mut request: Request<Body>| {
    ///     request.headers_mut().insert("x-region", HeaderValue::from_static("eu"));
    ///     request
    /// });
    /// let channel = tower_iroh::Channel::builder(endpoint).peer(peer).around_attempts(mark.clone()).build()?;
    /// let around_calls = ServiceBuilder::new().layer(mark).service(channel);
    /// # drop(around_calls);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The layer sees the attempt's deadline in the request's extensions; `grpc-timeout` is written below it. A request that it builds anew keeps these extensions. Of several
    /// layers, the last one set is outermost.
    ///
    /// **Readiness.** The layer passes readiness on: a selection between two transports goes by it. What it limits it acquires in `call` and not in `poll_ready`, which is asked of
    /// a transport too that the call does not take. **Errors.** An attempt that never left comes back [in its error](crate::layers::unsent). A layer that wraps the error loses
    /// the request, and the call is not made again. **Cost.** A box for each clone, future and body on the way; none where no layer is set.
    pub fn around_attempts<L>(mut self, layer: L) -> Self
    where
        L: Layer<AttemptService, Service: Attempts> + Send + Sync + 'static,
        <L::Service as Attempts>::Body: HttpBody<Data = Bytes>,
    {
        let layer = AroundAttempts::new(layer);
        self.around_attempts = Some(match self.around_attempts {
            Some(inner) => inner.within(layer),
            None => layer,
        });
        self
    }

    /// Checks the settings and makes the channel. Nothing is dialled.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting, its value, and what is accepted.
    pub fn build(mut self) -> Result<Channel, ConfigError> {
        let Some(peer) = self.peer.take() else {
            return Err(ConfigError::new(
                "channel.peer",
                "nothing",
                "a peer is required: a ticket, an endpoint id or an address",
            ));
        };
        let common = self.common(peer.id())?;
        let id = peer.id();
        let select = self.select.take();
        let source = self.ends(select.is_some())?;
        if let Some(links) = &source.iroh
            && !peer.addr().is_empty()
        {
            links.add_peer(peer.clone());
        }
        if let Some(links) = &source.tcp {
            links.add_peer(peer);
        }
        let transports: Vec<_> = source.transports().collect();
        let stack = self.stack.of_channel(&transports)?;
        let methods = stack.table().clone();
        if let Some(select) = &select
            && !self.keeps_policy
        {
            select.take_methods(&methods);
        }
        let patience = stack.patience();
        let keep = stack
            .max_buffered()
            .max(select.as_ref().map(SelectHandle::max_buffered));
        let selects = select.is_some();
        let around = self.around_attempts.as_ref();
        let placed = |arm: EitherArm| match selects {
            true => arm.waiting().within(around),
            false => arm.within(around),
        };
        let iroh = source.iroh.as_ref().map(|links| {
            let pool = links.pool().clone();
            let arm = Arm::new(pool, id, common.clone(), &methods, patience.clone(), keep);
            let context = ArmContext::new(&source, links.state(id), TransportKind::Iroh, id);
            (placed(EitherArm::Iroh(arm)), context)
        });
        let tcp = source.tcp.as_ref().map(|links| {
            let pool = links.pool().clone();
            let arm = Arm::new(pool, id, common.clone(), &methods, patience.clone(), keep);
            let context = ArmContext::new(&source, links.state(id), TransportKind::Tcp, id);
            (placed(EitherArm::Tcp(arm)), context)
        });
        let stacked = match (iroh, tcp, select) {
            (Some(iroh), Some(tcp), Some(select)) => stack.build()?.between(iroh, tcp, select),
            (Some((only, to)), ..) | (None, Some((only, to)), _) => {
                stack.over(to).build()?.layer(only)
            }
            (None, None, _) => {
                return Err(ConfigError::new(
                    "channel.links",
                    "none",
                    "links over one transport",
                ));
            }
        };
        Ok(Channel {
            stacked,
            source,
            peer: id,
            max_message_size: self.max_message_size,
        })
    }

    /// What all requests carry.
    fn common(&mut self, peer: EndpointId) -> Result<Common, ConfigError> {
        let ours = concat!("tower-iroh/", env!("CARGO_PKG_VERSION"));
        let user_agent = match &self.user_agent {
            Some(theirs) => format!("{theirs} {ours}"),
            None => ours.to_owned(),
        };
        let user_agent = HeaderValue::from_str(&user_agent).map_err(|_| {
            ConfigError::new(
                "channel.user_agent",
                format_args!("{:?}", self.user_agent.take().unwrap_or_default()),
                "visible ASCII characters and spaces are accepted",
            )
        })?;
        let origin = self.origin.take();
        let parts = origin.clone().unwrap_or_else(|| Peer::new(peer).uri());
        let parts = parts.into_parts();
        let scheme = parts.scheme.filter(|scheme| {
            let known = [Scheme::HTTP, Scheme::HTTPS];
            known.contains(scheme)
        });
        match (scheme, parts.authority) {
            (Some(scheme), Some(authority)) => Ok(Common {
                scheme,
                authority,
                user_agent,
            }),
            _ => Err(ConfigError::new(
                "channel.origin",
                origin.unwrap_or_default(),
                "http:// or https:// with a host is accepted",
            )),
        }
    }

    /// The links of the channel, or the reason why its settings contradict each other.
    fn ends(&mut self, selects: bool) -> Result<transport::ChannelLinks, ConfigError> {
        if let Some((setting, why)) = self.contradiction {
            let (value, accepted) = match why {
                Why::OtherTransport => (
                    "set on a channel over the other transport",
                    "tuning, early_data and links are a channel's over iroh, tcp_links is one's over TCP",
                ),
                Why::Shared => (
                    "set on a channel with shared links",
                    "set it with Links::builder, or TcpLinks::builder, where all who share them get the same",
                ),
            };
            return Err(ConfigError::new(setting, value, accepted));
        }
        let both = "a channel with an endpoint or links over iroh, and a peer with a TCP address, can choose";
        match (self.iroh.is_some(), self.tcp.is_some(), selects) {
            (false, _, true) => {
                return Err(ConfigError::new(
                    "channel.select",
                    "set on a channel over TCP alone",
                    both,
                ));
            }
            (true, true, false) => {
                return Err(ConfigError::new(
                    "channel.tcp_links",
                    "set on a channel over iroh alone",
                    "channel.select says which calls go over TCP",
                ));
            }
            _ => {}
        }
        if selects && self.tcp.is_none() {
            self.tcp = self.new_tcp();
        }
        let header_list = self.max_header_list_size;
        let shared = [
            matches!(self.iroh, Some(Given::Shared(_))),
            matches!(self.tcp, Some(Given::Shared(_))),
        ];
        if let (Some(bytes), true) = (header_list, shared.contains(&true)) {
            return Err(ConfigError::new(
                "channel.max_header_list_size",
                bytes,
                "the shared links' lanes have it: Lanes::max_header_list_size",
            ));
        }
        let iroh = match self.iroh.take() {
            Some(Given::Own(links)) => Some(links.max_header_list_size(header_list).build()?),
            Some(Given::Shared(links)) => Some(links),
            None => None,
        };
        let tcp = match self.tcp.take() {
            Some(Given::Own(links)) => Some(links.max_header_list_size(header_list).build()?),
            Some(Given::Shared(links)) => Some(links),
            None => None,
        };
        Ok(transport::ChannelLinks { iroh, tcp })
    }
}
