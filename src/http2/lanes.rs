//! Which lanes there are, and how many calls each takes.

use std::ops::RangeInclusive;

use tower_iroh_layers::{ConfigError, Urgency};

use crate::wire::MAX_STREAM_WINDOW;

/// Which lanes a peer's calls travel on, and how many calls each takes.
///
/// ```
/// use tower_iroh::{LaneConfig, Lanes};
///
/// let lanes = Lanes::new([
///     LaneConfig::new(0..=2).max_streams(1),
///     LaneConfig::new(3..=7).max_streams(4).calls_per_stream(200),
/// ])
/// .large_message(256 * 1024);
/// lanes.validate(20_000_000)?;
/// # Ok::<(), tower_iroh::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lanes {
    pub(super) lanes: Vec<LaneConfig>,
    large_message: u32,
    pub(super) max_header_list_size: u32,
}

/// How many calls a stream has before its lane opens a further one.
const FILL: usize = 100;

/// One lane: a range of urgencies, and how many calls it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneConfig {
    pub(super) urgencies: RangeInclusive<u8>,
    pub(super) max_streams: usize,
    pub(super) calls_per_stream: usize,
    /// How many calls a stream has before a further one is opened.
    pub(super) fill: usize,
    pub(super) max_waiting: usize,
    pub(super) copies: bool,
    pub(super) spread: bool,
}

impl LaneConfig {
    /// A lane for these urgencies: one stream at first, up to 2, and as many calls as the server takes. Copies
    /// where the urgencies are above bulk's on the average, and calls spread where they are not.
    pub const fn new(urgencies: RangeInclusive<u8>) -> Self {
        // Wide enough for bounds that will be refused later.
        let sum = *urgencies.start() as u16 + *urgencies.end() as u16;
        let bulk = sum.div_ceil(2) >= Urgency::BULK.get() as u16;
        Self {
            copies: !bulk,
            spread: bulk,
            urgencies,
            max_streams: 2,
            calls_per_stream: usize::MAX,
            fill: FILL,
            max_waiting: 10_000,
        }
    }

    /// How many QUIC streams the lane opens, a further one when those before it have 100 calls or are full, or [spread](Self::spread) at once. Default 2.
    pub const fn max_streams(mut self, streams: usize) -> Self {
        self.max_streams = streams;
        self
    }

    /// How many calls are in flight on each stream at most; fewer where the server's MAX_CONCURRENT_STREAMS (RFC 9113) is lower. Default: as many as the server
    /// takes, which is any number with tonic's default. Whatever the limit, the lane opens a further stream when those it has have 100 calls each, and beyond
    /// that shares the calls among them. With a limit, calls beyond it wait, the more urgent first.
    ///
    /// The server's limit is known a round trip after the lane's first stream has opened. Until then ten calls go on that stream, and the others wait. A server that takes
    /// fewer than ten refuses what is beyond, for the retry layer to send again.
    pub const fn calls_per_stream(mut self, calls: usize) -> Self {
        self.calls_per_stream = calls;
        self.fill = if calls < FILL { calls } else { FILL };
        self
    }

    /// How many calls may wait for a permit before further ones are refused with RESOURCE_EXHAUSTED. Default 10,000.
    pub const fn max_waiting(mut self, calls: usize) -> Self {
        self.max_waiting = calls;
        self
    }

    /// Whether calls are spread over all of the lane's streams, instead of filling one before the next is opened, while the path's shortest round trip is
    /// 2 ms or more and [`Tuning::long_window`](crate::Tuning::long_window) holds four full streams; over TCP never. Default: on for bulk. There each stream has windows of its own, QUIC's 1.25 MB and what the server's HTTP/2 allows (tonic: 1 MiB),
    /// and several of them carry more than one, most of all where packets are lost; on a short path they only are in each other's way.
    pub const fn spread(mut self, spread: bool) -> Self {
        self.spread = spread;
        self
    }

    /// Whether small writes of this lane are sent a second and a third time, as QUIC datagrams, while the path's shortest round
    /// trip is 2 ms or more and packets were lost within the last 30 s: writes of at most 1,000 bytes, and at most 64 KiB of copies a
    /// second for a whole connection. And whether the copies that the peer sends of its own writes are taken. Default: on for lanes
    /// above bulk.
    ///
    /// It is for small calls, where a lost packet costs a round trip and more. Nothing is called twice: the copies are of the
    /// stream's bytes, each of which is read once (`docs/decisions/second-copies.md`). What the server sends is up to
    /// [`AcceptorBuilder::copies`](crate::AcceptorBuilder::copies).
    pub const fn copies(mut self, copies: bool) -> Self {
        self.copies = copies;
        self
    }
}

impl Lanes {
    /// These lanes, from the most urgent to the least.
    pub fn new(lanes: impl IntoIterator<Item = LaneConfig>) -> Self {
        Self {
            lanes: lanes.into_iter().collect(),
            large_message: 64 * 1024,
            max_header_list_size: 16 * 1024,
        }
    }

    /// Control, interactive and bulk; the default. 1, 3 and 4 streams at most.
    pub fn standard() -> Self {
        Self::new([
            LaneConfig::new(0..=1).max_streams(1),
            LaneConfig::new(2..=4).max_streams(3),
            LaneConfig::new(5..=7).max_streams(4),
        ])
    }

    /// For Raft: election, heartbeat, log append and snapshot.
    pub fn raft() -> Self {
        Self::new([
            LaneConfig::new(0..=0).max_streams(1),
            LaneConfig::new(1..=1).max_streams(1),
            LaneConfig::new(2..=4).max_streams(3),
            LaneConfig::new(5..=7).max_streams(3),
        ])
    }

    /// From how many bytes on a call's first message sends the call to the bulk lane, whatever its urgency. Default
    /// 64 KiB; `u32::MAX` for never.
    pub const fn large_message(mut self, bytes: u32) -> Self {
        self.large_message = bytes;
        self
    }

    /// The largest list of headers or trailers that is accepted in a response, in bytes as RFC 9113, section 6.5.2, counts them: names, values, and 32 for each.
    /// Default 16 KiB, as tonic's. A larger one fails its call with RESOURCE_EXHAUSTED, naming the limit and the largest header; the other calls go on. A request may
    /// have 64 KiB, or as much as is accepted here.
    pub const fn max_header_list_size(mut self, bytes: u32) -> Self {
        self.max_header_list_size = bytes;
        self
    }

    /// Whether small writes are sent again on lossy paths, for all of these lanes; see [`LaneConfig::copies`].
    pub fn copies(mut self, copies: bool) -> Self {
        for lane in &mut self.lanes {
            lane.copies = copies;
        }
        self
    }

    /// Checks that each urgency has exactly one lane, that nothing is zero, and that the lanes together cannot fill a send
    /// window of `send_window` bytes: a stream may hold [`MAX_STREAM_WINDOW`] bytes of it, and once it is full no priority
    /// helps, because nothing more urgent is let in.
    ///
    /// # Errors
    /// [`ConfigError`], naming the lane.
    pub fn validate(&self, send_window: u64) -> Result<(), ConfigError> {
        ConfigError::nonzero(
            "lanes.max_header_list_size",
            self.max_header_list_size as usize,
        )?;
        let mut next = 0;
        for lane in &self.lanes {
            let (first, last) = (*lane.urgencies.start(), *lane.urgencies.end());
            let shown = format!("{first}..={last}");
            if first != next || last < first || last > Urgency::LOWEST.get() {
                return Err(ConfigError::new(
                    "lanes.urgencies",
                    shown,
                    format!("the next lane must begin at {next} and end at 7 or below"),
                ));
            }
            ConfigError::nonzero("lanes.max_streams", lane.max_streams)?;
            ConfigError::nonzero("lanes.calls_per_stream", lane.calls_per_stream)?;
            ConfigError::nonzero("lanes.max_waiting", lane.max_waiting)?;
            next = last + 1;
        }
        if next != Urgency::LOWEST.get() + 1 {
            return Err(ConfigError::new(
                "lanes.urgencies",
                format!("up to {}", i16::from(next) - 1),
                "the lanes together must cover 0 to 7",
            ));
        }
        let streams: usize = self
            .lanes
            .iter()
            .fold(0, |sum, lane| sum.saturating_add(lane.max_streams));
        let most = send_window / MAX_STREAM_WINDOW;
        if streams as u64 > most {
            return Err(ConfigError::new(
                "lanes.max_streams",
                format!("{streams} together"),
                format!(
                    "a send window of {send_window} bytes carries {most} streams of {MAX_STREAM_WINDOW}; fewer streams \
                     or a larger Tuning::send_window are accepted"
                ),
            ));
        }
        Ok(())
    }

    /// Which lane a call takes.
    pub(super) fn index(&self, urgency: Urgency, message_len: Option<u32>) -> usize {
        let large = message_len.is_some_and(|len| len >= self.large_message);
        let urgency = if large {
            urgency.max(Urgency::BULK)
        } else {
            urgency
        };
        self.lanes
            .iter()
            .position(|lane| lane.urgencies.contains(&urgency.get()))
            // Validated to cover everything; the last is the gentlest answer to what cannot be.
            .unwrap_or(self.lanes.len() - 1)
    }
}

impl Default for Lanes {
    fn default() -> Self {
        Self::standard()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND_WINDOW: u64 = 20_000_000;

    #[test]
    fn the_presets_are_valid() {
        Lanes::standard().validate(SEND_WINDOW).expect("valid");
        Lanes::raft().validate(SEND_WINDOW).expect("valid");
        // What a bare iroh endpoint has.
        Lanes::standard().validate(10_000_000).expect("valid");
    }

    #[test]
    fn lanes_that_break_a_rule_are_refused_by_name() {
        let lane = LaneConfig::new;
        for (lanes, field) in [
            (vec![], "lanes.urgencies"),
            (vec![lane(0..=6)], "lanes.urgencies"),
            (vec![lane(0..=8)], "lanes.urgencies"),
            (vec![lane(0..=3), lane(5..=7)], "lanes.urgencies"),
            (vec![lane(0..=3), lane(3..=7)], "lanes.urgencies"),
            (vec![lane(0..=7).max_streams(0)], "lanes.max_streams"),
            (
                vec![lane(0..=7).calls_per_stream(0)],
                "lanes.calls_per_stream",
            ),
            (vec![lane(0..=7).max_waiting(0)], "lanes.max_waiting"),
            (vec![lane(0..=7).max_streams(17)], "lanes.max_streams"),
            (
                vec![lane(0..=7).max_streams(usize::MAX)],
                "lanes.max_streams",
            ),
        ] {
            let error = Lanes::new(lanes)
                .validate(SEND_WINDOW)
                .expect_err("invalid");
            assert_eq!(error.field(), field, "{error}");
        }
    }

    #[test]
    fn an_empty_header_list_is_refused_by_name() {
        let lanes = Lanes::standard().max_header_list_size(0);
        let error = lanes.validate(SEND_WINDOW).expect_err("nothing fits");
        assert_eq!(error.field(), "lanes.max_header_list_size");
    }

    #[test]
    fn the_window_rule_says_what_is_accepted() {
        let error = Lanes::standard().validate(5_000_000).expect_err("too many");
        assert_eq!(
            error.to_string(),
            "lanes.max_streams = 8 together: a send window of 5000000 bytes carries 4 streams of 1250000; fewer streams \
             or a larger Tuning::send_window are accepted"
        );
    }

    #[test]
    fn lanes_above_bulk_have_copies_unless_told_otherwise() {
        let copied = |lanes: Lanes| {
            lanes
                .lanes
                .iter()
                .map(|lane| lane.copies)
                .collect::<Vec<_>>()
        };
        assert_eq!(copied(Lanes::standard()), [true, true, false]);
        assert_eq!(copied(Lanes::raft()), [true, true, true, false]);
        assert_eq!(copied(Lanes::standard().copies(false)), [false; 3]);
        assert!(!LaneConfig::new(0..=7).copies(false).copies);
        // Nonsense is refused by name, not by an overflow.
        assert!(!LaneConfig::new(200..=255).copies);
    }

    #[test]
    fn urgency_and_size_choose_the_lane() {
        let lanes = Lanes::standard();
        assert_eq!(lanes.index(Urgency::HIGHEST, None), 0);
        assert_eq!(lanes.index(Urgency::CONTROL, Some(100)), 0);
        assert_eq!(lanes.index(Urgency::INTERACTIVE, Some(100)), 1);
        assert_eq!(lanes.index(Urgency::INTERACTIVE, Some(64 * 1024)), 2);
        assert_eq!(lanes.index(Urgency::CONTROL, Some(u32::MAX)), 2);
        assert_eq!(lanes.index(Urgency::LOWEST, None), 2);
    }
}
