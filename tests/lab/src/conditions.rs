use std::time::Duration;

/// What one direction of a link does to the packets that pass.
///
/// The default passes everything at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// From leaving the queue to arriving. Half of the round trip, where both directions are alike.
    pub delay: Duration,
    /// Up to so much more delay, drawn anew for each packet; the order is kept.
    pub jitter: Duration,
    /// Which packets are lost, after they had their time on the link.
    pub loss: Loss,
    /// The share of packets that those after them overtake, 0 to 1: they come later by an eighth of the delay, or a millisecond.
    pub reorder: f64,
    /// Bits a second, headers of IP and up included. `None`: without limit.
    pub rate: Option<u64>,
    /// How much may wait for the link, as the time that it takes to send; what comes beyond is dropped. Only where there is a rate.
    pub queue: Duration,
    /// Times in which nothing passes and everything waits.
    pub stalls: Option<Stalls>,
    /// Whether nothing passes at all.
    pub cut: bool,
    /// What a firewall on the way drops, without a word to anybody.
    pub blocked: Option<Protocol>,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// What HTTP/2 over TLS is sent with.
    Tcp,
    /// What QUIC is sent with.
    Udp,
}

/// Which packets a link loses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Each by itself, with this probability.
    Random(f64),
    /// In bursts (Gilbert and Elliott): the link turns bad with probability `begin` at each packet, good again with `end`, and loses
    /// the share `lost` of the packets while it is bad.
    Bursts {
        /// Probability that a burst begins at a packet.
        begin: f64,
        /// Probability that it ends at a packet.
        end: f64,
        /// Share of the packets lost while it lasts.
        lost: f64,
    },
}

/// A radio that is silent now and then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stalls {
    /// The mean time between the end of one and the beginning of the next, exponentially distributed.
    pub every: Duration,
    /// How long each lasts.
    pub lasting: Duration,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Loss::Random(0.0),
            reorder: 0.0,
            rate: None,
            queue: Duration::from_millis(200),
            stalls: None,
            cut: false,
            blocked: None,
        }
    }
}

impl Conditions {
    /// A room: a gigabit and no delay but the emulation's own, about a tenth of a millisecond there and back.
    pub fn lan() -> Self {
        Self {
            rate: Some(1_000_000_000),
            queue: Duration::from_millis(20),
            ..Self::default()
        }
    }

    /// A long way with this round trip, if both directions are set alike, and 200 Mbit/s.
    pub fn wan(round_trip: Duration) -> Self {
        Self {
            delay: round_trip / 2,
            rate: Some(200_000_000),
            queue: Duration::from_millis(100),
            ..Self::default()
        }
    }

    /// 20 Mbit/s, 40 ms there and back, and a queue of 200 ms, as many home routers have.
    pub fn narrow() -> Self {
        Self::wan(Duration::from_millis(40))
            .with_rate(20_000_000)
            .with_queue(Duration::from_millis(200))
    }

    /// A wireless network with neighbours: 50 Mbit/s, jitter, silences of 30 ms and losses in bursts.
    pub fn wifi() -> Self {
        Self {
            delay: Duration::from_millis(5),
            jitter: Duration::from_millis(4),
            loss: Loss::Bursts {
                begin: 0.001,
                end: 0.2,
                lost: 0.5,
            },
            rate: Some(50_000_000),
            queue: Duration::from_millis(100),
            stalls: Some(Stalls {
                every: Duration::from_millis(400),
                lasting: Duration::from_millis(30),
            }),
            ..Self::default()
        }
    }

    /// The same with so much loss, each packet by itself.
    #[must_use]
    pub fn with_loss(mut self, share: f64) -> Self {
        self.loss = Loss::Random(share);
        self
    }

    /// The same with so many bits a second.
    #[must_use]
    pub fn with_rate(mut self, bits: u64) -> Self {
        self.rate = Some(bits);
        self
    }

    /// The same with so long a queue.
    #[must_use]
    pub fn with_queue(mut self, queue: Duration) -> Self {
        self.queue = queue;
        self
    }
}
