//! W3C Trace Context: <https://www.w3.org/TR/trace-context/>.

use std::{
    fmt,
    future::Future,
    num::{NonZeroU64, NonZeroU128},
    str::FromStr,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::state;
use crate::headers::first;

/// The header that has the ids.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header with the vendors' additions. It is passed on, its lines as one. If it is longer than 512 bytes, the members above 128 bytes
/// are dropped, and then the last ones, as the specification asks.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// Which trace a call belongs to, and which span of it is the caller.
///
/// On a server it is in the request's extensions. While a handler or its response's body is polled it is also the task's, so that clients
/// with a [`TraceLayer`](super::TraceLayer) pass it on by themselves. A handler's spawned task has none of its own:
/// ```
/// # use tower_iroh_layers::trace::TraceContext;
/// # async fn work() {}
/// # async fn handler() {
/// if let Some(context) = TraceContext::current() {
///     tokio::spawn(context.scope(work()));
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: NonZeroU128,
    span_id: NonZeroU64,
    flags: u8,
    tracestate: Option<HeaderValue>,
}

impl TraceContext {
    /// The caller may have recorded this trace.
    pub const SAMPLED: u8 = 0b01;
    /// The trace's id is random (level 2 of the specification).
    pub const RANDOM: u8 = 0b10;

    /// A context; `None` if an id is zero, which is not valid. Clears flags that this version does not know.
    pub fn new(trace_id: u128, span_id: u64, flags: u8) -> Option<Self> {
        Some(Self {
            trace_id: NonZeroU128::new(trace_id)?,
            span_id: NonZeroU64::new(span_id)?,
            flags: flags & (Self::SAMPLED | Self::RANDOM),
            tracestate: None,
        })
    }

    /// A new trace, which is sampled.
    pub fn root() -> Self {
        Self {
            trace_id: rand::random(),
            span_id: rand::random(),
            flags: Self::SAMPLED,
            tracestate: None,
        }
    }

    /// Another span of the same trace.
    pub fn child(&self) -> Self {
        Self {
            span_id: rand::random(),
            ..self.clone()
        }
    }

    /// Takes over the vendors' additions, if `other` is of the same trace.
    pub(super) fn with_state_of(mut self, other: &Self) -> Self {
        if self.trace_id == other.trace_id {
            self.tracestate = other.tracestate.clone();
        }
        self
    }

    /// The trace's id, never 0.
    pub fn trace_id(&self) -> u128 {
        self.trace_id.get()
    }

    /// The span's id, never 0.
    pub fn span_id(&self) -> u64 {
        self.span_id.get()
    }

    /// [`SAMPLED`](Self::SAMPLED) and [`RANDOM`](Self::RANDOM).
    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// The vendors' additions, at most 512 bytes.
    pub fn tracestate(&self) -> Option<&HeaderValue> {
        self.tracestate.as_ref()
    }

    /// The context of the running task.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// The context of a request: from its extensions, else from its headers.
    pub fn of<B>(request: &Request<B>) -> Option<Self> {
        match request.extensions().get::<Self>() {
            Some(context) => Some(context.clone()),
            None => Self::from_headers(request.headers()),
        }
    }

    /// Makes it the task's context whenever `future` is polled.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    pub(super) fn sync_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), f)
    }

    /// Reads the headers. A malformed or repeated `traceparent` counts as absent: it must not fail a call.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        // Most requests have none, and that is quickly seen.
        first(headers, &TRACEPARENT)?;
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let parent = parents.next()?.to_str().ok()?;
        if parents.next().is_some() {
            return None;
        }
        let mut context: Self = parent.parse().ok()?;
        context.tracestate = state::read(headers);
        Some(context)
    }

    /// Writes the headers, replacing existing ones.
    pub fn write(&self, headers: &mut HeaderMap) {
        let mut text = [0; LEN];
        self.format(&mut text);
        if let Ok(value) = HeaderValue::from_bytes(&text) {
            headers.insert(TRACEPARENT, value);
        }
        match &self.tracestate {
            Some(state) => headers.insert(TRACESTATE, state.clone()),
            None => headers.remove(TRACESTATE),
        };
    }

    fn format(&self, text: &mut [u8; LEN]) {
        text.fill(b'-');
        hex(0, &mut text[0..2]);
        hex(self.trace_id.get(), &mut text[3..35]);
        hex(self.span_id.get().into(), &mut text[36..52]);
        hex(self.flags.into(), &mut text[53..55]);
    }
}

/// The length of version 00.
const LEN: usize = 55;

fn hex(mut value: u128, text: &mut [u8]) {
    for place in text.iter_mut().rev() {
        *place = b"0123456789abcdef"[(value & 0xf) as usize];
        value >>= 4;
    }
}

/// Why a `traceparent` is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TraceParentError {
    /// Not the length of its version.
    #[error("a traceparent of version 00 has 55 characters, a later one at least as many")]
    Length,
    /// A separator is in the wrong place, or a character is not a lower-case hexadecimal digit.
    #[error("a traceparent is made of lower-case hexadecimal digits and dashes")]
    Syntax,
    /// Version ff, which is invalid.
    #[error("ff is no version of traceparent")]
    Version,
    /// An id is zero.
    #[error("an id in a traceparent is not all zeros")]
    ZeroId,
}

impl FromStr for TraceContext {
    type Err = TraceParentError;

    /// Reads a `traceparent`. A version later than 00 is read as 00, as the specification asks, and written as 00.
    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        let text = text.as_bytes();
        if text.len() < LEN {
            return Err(TraceParentError::Length);
        }
        let version = digits(&text[0..2])?;
        match (version, text.get(LEN)) {
            (0xff, _) => return Err(TraceParentError::Version),
            (_, None) => {}
            (0, Some(_)) => return Err(TraceParentError::Length),
            (_, Some(b'-')) => {}
            (_, Some(_)) => return Err(TraceParentError::Syntax),
        }
        if [text[2], text[35], text[52]] != *b"---" {
            return Err(TraceParentError::Syntax);
        }
        let trace_id = digits(&text[3..35])?;
        // Sixteen digits fit.
        let span_id = digits(&text[36..52])? as u64;
        let flags = digits(&text[53..55])? as u8;
        Self::new(trace_id, span_id, flags).ok_or(TraceParentError::ZeroId)
    }
}

fn digits(text: &[u8]) -> Result<u128, TraceParentError> {
    text.iter().try_fold(0, |value, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return Err(TraceParentError::Syntax),
        };
        Ok(value << 4 | u128::from(digit))
    })
}

impl fmt::Display for TraceContext {
    /// As the `traceparent` header has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; LEN];
        self.format(&mut text);
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parse(text: &str) -> Result<TraceContext, TraceParentError> {
        text.parse()
    }

    #[test]
    fn the_specification_s_example() {
        let context = parse(GOOD).expect("good");
        assert_eq!(
            context.trace_id(),
            0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736
        );
        assert_eq!(context.span_id(), 0x00f0_67aa_0ba9_02b7);
        assert_eq!(context.flags(), TraceContext::SAMPLED);
        assert_eq!(context.to_string(), GOOD);
    }

    #[test]
    fn what_is_no_traceparent() {
        use TraceParentError::{Length, Syntax, Version, ZeroId};
        for (text, why) in [
            ("", Length),
            ("00", Length),
            (&GOOD[..54], Length),
            (&format!("{GOOD}-"), Length),
            (&format!("{GOOD}-what"), Length),
            (&GOOD.to_uppercase(), Syntax),
            (&GOOD.replace('-', "_"), Syntax),
            (&GOOD.replacen("00-", "0g-", 1), Syntax),
            (&GOOD.replacen("4b", "+b", 1), Syntax),
            (&GOOD.replacen("00-", "ff-", 1), Version),
            (&format!("cc{}.more", &GOOD[2..]), Syntax),
            (
                "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                ZeroId,
            ),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                ZeroId,
            ),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-\u{e9}",
                Syntax,
            ),
        ] {
            assert_eq!(parse(text), Err(why), "{text:?}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_what_it_has_of_00() {
        for later in [
            format!("cc{}", &GOOD[2..]),
            format!("01{}-what-else", &GOOD[2..]),
            format!("fe{}-", &GOOD[2..]),
        ] {
            assert_eq!(parse(&later).expect("tolerated").to_string(), GOOD);
        }
    }

    #[test]
    fn flags_that_nobody_knows_are_not_passed_on() {
        let context = parse(&format!("{}ff", &GOOD[..53])).expect("good");
        assert_eq!(context.to_string(), format!("{}03", &GOOD[..53]));
    }

    fn headers(lines: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn two_parents_are_none() {
        let twice = headers(&[(&TRACEPARENT, GOOD), (&TRACEPARENT, GOOD)]);
        assert_eq!(TraceContext::from_headers(&twice), None);
    }

    #[test]
    fn tracestate_is_passed_on_as_it_came_and_its_lines_are_one() {
        let lines = [
            (&TRACEPARENT, GOOD),
            (&TRACESTATE, "a=1,b=2"),
            (&TRACESTATE, "c=3"),
        ];
        let context = TraceContext::from_headers(&headers(&lines)).expect("good");
        let mut out = headers(&[
            (&TRACEPARENT, "old"),
            (&TRACESTATE, "old"),
            (&TRACESTATE, "older"),
        ]);
        context.child().write(&mut out);
        let state: Vec<_> = out.get_all(TRACESTATE).iter().collect();
        assert_eq!(state, ["a=1,b=2,c=3"]);
        assert_eq!(out.get_all(TRACEPARENT).iter().count(), 1);
    }

    #[test]
    fn tracestate_without_a_parent_is_dropped_and_a_stale_one_does_not_stay() {
        assert_eq!(
            TraceContext::from_headers(&headers(&[(&TRACESTATE, "a=1")])),
            None
        );
        let mut out = headers(&[(&TRACESTATE, "stale=1")]);
        TraceContext::root().write(&mut out);
        assert!(!out.contains_key(TRACESTATE));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(trace_id in 1u128.., span_id in 1u64.., flags in 0u8..4) {
            let context = TraceContext::new(trace_id, span_id, flags).expect("no zero");
            prop_assert_eq!(parse(&context.to_string()), Ok(context.clone()));
            let mut headers = HeaderMap::new();
            context.write(&mut headers);
            prop_assert_eq!(TraceContext::from_headers(&headers), Some(context));
        }

        #[test]
        fn any_text_is_read_without_panic_and_never_as_zero(text in "\\PC{0,80}") {
            if let Ok(context) = parse(&text) {
                prop_assert!(context.trace_id() != 0 && context.span_id() != 0);
            }
        }

        #[test]
        fn what_is_nearly_good_is_read_back_or_refused(at in 0usize..60, byte in any::<u8>(), longer in ".{0,4}") {
            let mut bytes = GOOD.as_bytes().to_vec();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            if let Ok(text) = String::from_utf8(bytes)
                && let Ok(context) = parse(&format!("{text}{longer}"))
            {
                prop_assert_eq!(parse(&context.to_string()), Ok(context));
            }
        }

        #[test]
        fn any_headers_are_read_without_panic(
            parent in proptest::collection::vec(any::<u8>(), 0..80),
            states in proptest::collection::vec(proptest::collection::vec(0x20u8..0x7f, 0..700), 0..4),
        ) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&parent) {
                headers.insert(TRACEPARENT, value);
            }
            for state in states {
                headers.append(TRACESTATE, HeaderValue::from_bytes(&state).expect("printable"));
            }
            TraceContext::from_headers(&headers);
            headers.insert(TRACEPARENT, HeaderValue::from_static(GOOD));
            let context = TraceContext::from_headers(&headers).expect("a bad state is no bad parent");
            prop_assert!(context.tracestate().is_none_or(|state| state.len() <= state::MAX));
        }
    }
}
