//! Windows and congestion control of a QUIC connection, and why they are what they are: FACTS, and
//! `docs/decisions/windows-follow-the-path.md`.

use std::{sync::Arc, time::Duration};

use iroh::endpoint::{
    Builder, QuicTransportConfig, QuicTransportConfigBuilder, VarInt, presets::Preset,
};
use noq_proto::congestion::ControllerFactory;

use crate::wire::MAX_STREAM_WINDOW;
use tower_iroh_layers::ConfigError;

mod bound;
mod budget;
mod congestion;
mod follow;
mod keep_probing;
mod losses;
mod packets;
mod reduction;
mod shortest;
mod window;

pub(crate) use budget::WindowBudget;
pub(crate) use follow::Follow;
pub(crate) use packets::Side;
pub(crate) use window::{PathSample, ReceiveWindow};

/// How a QUIC connection uses the network: congestion control and windows.
///
/// It is an iroh [`Preset`], so that an endpoint that serves gets the same as one that dials:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use iroh::{Endpoint, endpoint::presets};
/// use tower_iroh::Tuning;
///
/// let endpoint = Endpoint::builder(presets::Minimal).preset(Tuning::auto()).bind().await?;
/// # endpoint.close().await;
/// # Ok(())
/// # }
/// ```
///
/// The connection's receive window is set while it runs: [`short_window`](Self::short_window) where the path is short,
/// [`long_window`](Self::long_window) where it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// BBR3 controls paths of at least this round trip, Cubic shorter ones.
    long_from: Duration,
    stream_window: u64,
    send_window: u64,
    short_window: u64,
    long_window: u64,
    only_lanes: bool,
}

impl Tuning {
    /// The default: adapts to the path. Cubic and a small window while the shortest round trip is under 2 ms; BBR3 and a large
    /// window on longer paths. BBR3 also on a short path that loses more than one packet in 200.
    pub const fn auto() -> Self {
        Self {
            long_from: SHORT_PATH,
            stream_window: MAX_STREAM_WINDOW,
            send_window: 16 * MAX_STREAM_WINDOW,
            short_window: 128 * 1024,
            long_window: 16 * MAX_STREAM_WINDOW,
            only_lanes: false,
        }
    }

    /// For machines on one local network: Cubic and a small window on every path.
    pub const fn lan() -> Self {
        let auto = Self::auto();
        Self {
            long_from: Duration::MAX,
            long_window: auto.short_window,
            ..auto
        }
    }

    /// For long or lossy paths: BBR3 and a large window on every path.
    pub const fn wan() -> Self {
        let auto = Self::auto();
        Self {
            long_from: Duration::ZERO,
            short_window: auto.long_window,
            ..auto
        }
    }

    /// The receive window of each stream, in bytes. Default and maximum: 1,250,000.
    pub const fn stream_window(mut self, bytes: u64) -> Self {
        self.stream_window = bytes;
        self
    }

    /// How many sent but unacknowledged bytes a connection holds. Default 20,000,000: sixteen full streams.
    pub const fn send_window(mut self, bytes: u64) -> Self {
        self.send_window = bytes;
        self
    }

    /// The connection's receive window while the path is short. Default 128 KiB.
    pub const fn short_window(mut self, bytes: u64) -> Self {
        self.short_window = bytes;
        self
    }

    /// The connection's receive window while the path is long: the most that the peer's lanes together can make this side hold. Default
    /// 20,000,000: sixteen full streams. If it is smaller than the windows of all bulk streams together, bulk transfers can hold up urgent calls.
    pub const fn long_window(mut self, bytes: u64) -> Self {
        self.long_window = bytes;
        self
    }

    /// Lets the peers of an endpoint with this preset open no unidirectional streams: for an endpoint that serves nothing else. Default: iroh's hundred, because
    /// other protocols may need them; an [`Acceptor`](crate::Acceptor) stops each of them.
    pub const fn only_lanes(mut self) -> Self {
        self.only_lanes = true;
        self
    }

    /// Checks the settings against each other and against the protocol.
    ///
    /// # Errors
    /// [`ConfigError`] for a stream window above what the ALPN allows, one that is zero, a short window above the long one, or a
    /// send window that does not hold one stream.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.stream_window == 0 || self.stream_window > MAX_STREAM_WINDOW {
            return Err(ConfigError::new(
                "tuning.stream_window",
                self.stream_window,
                format!("1 to {MAX_STREAM_WINDOW} bytes are accepted, as the ALPN fixes it"),
            ));
        }
        if self.send_window < MAX_STREAM_WINDOW {
            return Err(ConfigError::new(
                "tuning.send_window",
                self.send_window,
                format!("must hold one stream, {MAX_STREAM_WINDOW} bytes, at least"),
            ));
        }
        if self.short_window == 0 || self.short_window > self.long_window {
            return Err(ConfigError::new(
                "tuning.short_window",
                self.short_window,
                format!(
                    "1 to tuning.long_window ({}) bytes are accepted",
                    self.long_window
                ),
            ));
        }
        // QUIC counts in integers of 62 bits.
        for (field, bytes) in [
            ("tuning.long_window", self.long_window),
            ("tuning.send_window", self.send_window),
        ] {
            if VarInt::from_u64(bytes).is_err() {
                return Err(ConfigError::new(field, bytes, "must be below 2^62"));
            }
        }
        Ok(())
    }

    pub(crate) fn send_window_bytes(&self) -> u64 {
        self.send_window
    }

    pub(crate) fn receive_window(&self) -> ReceiveWindow {
        ReceiveWindow::new(self.short_window, self.long_window)
    }

    fn controller(&self) -> Arc<dyn ControllerFactory + Send + Sync> {
        Arc::new(congestion::FollowsPathConfig {
            long_from: self.long_from,
        })
    }

    /// The transport configuration of a connection that this side dials: its server opens no streams.
    pub(crate) fn dialled(&self) -> QuicTransportConfig {
        let none = VarInt::from_u32(0);
        self.transport()
            .max_concurrent_bidi_streams(none)
            .max_concurrent_uni_streams(none)
            .build()
    }

    fn transport(&self) -> QuicTransportConfigBuilder {
        let int = |value| VarInt::from_u64(value).unwrap_or(VarInt::MAX);
        QuicTransportConfig::builder()
            .stream_receive_window(int(self.stream_window))
            .receive_window(int(self.long_window.min(FIRST_WINDOW)))
            .send_window(self.send_window)
            .congestion_controller_factory(self.controller())
    }
}

/// The receive window of a connection whose path is not known yet, and of an accepted one until a handler has served a call. On most paths a sender's slow start
/// takes as long to reach it.
const FIRST_WINDOW: u64 = 256 * 1024;
/// Below this shortest round trip a path counts as short.
pub(crate) const SHORT_PATH: Duration = Duration::from_millis(2);

impl Default for Tuning {
    fn default() -> Self {
        Self::auto()
    }
}

impl Preset for Tuning {
    fn apply(self, builder: Builder) -> Builder {
        let mut transport = self.transport();
        if self.only_lanes {
            transport = transport.max_concurrent_uni_streams(VarInt::from_u32(0));
        }
        builder.transport_config(transport.build())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_presets_are_valid() {
        for tuning in [Tuning::auto(), Tuning::lan(), Tuning::wan()] {
            tuning.validate().expect("valid");
        }
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        let error = Tuning::auto()
            .stream_window(4 << 20)
            .validate()
            .expect_err("too large");
        assert_eq!(error.field(), "tuning.stream_window");
        assert_eq!(
            error.to_string(),
            "tuning.stream_window = 4194304: 1 to 1250000 bytes are accepted, as the ALPN fixes it"
        );
        for (tuning, field) in [
            (Tuning::auto().stream_window(0), "tuning.stream_window"),
            (Tuning::auto().send_window(1), "tuning.send_window"),
            (Tuning::auto().short_window(0), "tuning.short_window"),
            (Tuning::auto().long_window(1), "tuning.short_window"),
            (Tuning::auto().long_window(u64::MAX), "tuning.long_window"),
            (Tuning::auto().send_window(u64::MAX), "tuning.send_window"),
        ] {
            assert_eq!(tuning.validate().expect_err("invalid").field(), field);
        }
    }
}
