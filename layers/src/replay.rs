//! A request's body that can be sent again, as far as it is held. Retry and select keep theirs with it.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, MutexGuard},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::Full;
use tonic::{Status, body::Body};

use crate::{BoxError, mutex::Mutex, peek::Peeked};

/// What a body yields to an attempt that another one has replaced.
pub(crate) type Superseded = fn() -> BoxError;

/// What a call's body is to its attempts.
pub(crate) enum Held {
    Empty,
    /// All of it, in one piece: a unary or server-streaming request. Each attempt gets a reference, no copy.
    Whole(Bytes),
    /// What has been sent of it, and the rest.
    Tape(Tape),
}

impl Held {
    /// Looks at `body` without waiting for it; keeps up to `limit` bytes.
    pub(crate) fn new(body: Body, limit: usize, superseded: Superseded) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        // No waker: a body that is not ready is polled again by the attempt that sends it.
        let mut body = Peeked::new(body, &mut Context::from_waker(Waker::noop()));
        match Self::whole(&mut body, limit) {
            Some(held) => held,
            None => Self::Tape(Tape::new(body, limit, superseded)),
        }
    }

    /// The same for the first attempt, which gets a body that was looked at too. A message that is larger than `limit` is not kept.
    pub(crate) fn keep(
        mut body: Peeked<Body>,
        limit: usize,
        superseded: Superseded,
    ) -> (Option<Self>, Peeked<Body>) {
        match Self::whole(&mut body, limit) {
            Some(Self::Whole(bytes)) => (Some(Self::Whole(bytes.clone())), Peeked::single(bytes)),
            None if !body.is_whole() => {
                let tape = Tape::new(body, limit, superseded);
                let attempt = Peeked::unread(Body::new(tape.reel()));
                (Some(Self::Tape(tape)), attempt)
            }
            held => (held, body),
        }
    }

    /// Takes a body that is here in one piece, or has no piece.
    fn whole(body: &mut Peeked<Body>, limit: usize) -> Option<Self> {
        if body.is_end_stream() {
            return Some(Self::Empty);
        }
        let fits = usize::try_from(body.size_hint().lower()).is_ok_and(|held| held <= limit);
        let single = (body.is_whole() && fits).then(|| body.take_single());
        single.flatten().map(Self::Whole)
    }

    /// The body for the next attempt, from its beginning. Any earlier one is at its end.
    pub(crate) fn attempt(&self) -> Body {
        match self {
            Self::Empty => Body::empty(),
            Self::Whole(bytes) => Body::new(Full::new(bytes.clone())),
            Self::Tape(tape) => Body::new(tape.reel()),
        }
    }

    /// Takes the body back from the attempt that has it, if another can have all of it. If not, that attempt keeps it.
    ///
    /// The attempt may be reading still, on another thread, so this is one step and not a question and a deed.
    pub(crate) fn take_back(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(_) => true,
            Self::Tape(tape) => tape.take_back(),
        }
    }

    /// There will be no further attempt: what is kept goes as it is sent.
    pub(crate) fn commit(&self) {
        if let Self::Tape(tape) = self {
            tape.reel.lock().commit();
        }
    }
}

/// A body that is recorded while it is sent.
pub(crate) struct Tape {
    reel: Arc<Mutex<Reel>>,
    superseded: Superseded,
}

struct Reel {
    source: Option<Peeked<Body>>,
    record: VecDeque<Piece>,
    /// How much of the record the attempt that has the body was given.
    position: usize,
    /// What the record may still take.
    room: usize,
    recording: bool,
    /// The attempt that has the body. An older one may not take from the source any more: what it took would be lost.
    generation: u32,
    /// Whom the source will wake.
    reader: Option<Waker>,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// What a piece costs beside its data, so that empty ones are not free.
const PIECE: usize = 32;

impl Tape {
    fn new(source: Peeked<Body>, limit: usize, superseded: Superseded) -> Self {
        let reel = Arc::new(Mutex::new(Reel {
            source: Some(source),
            record: VecDeque::new(),
            position: 0,
            room: limit,
            recording: true,
            generation: 0,
            reader: None,
        }));
        Self { reel, superseded }
    }

    fn take_back(&self) -> bool {
        let reader = {
            let mut reel = self.reel.lock();
            if !reel.recording {
                return false;
            }
            reel.generation = reel.generation.wrapping_add(1);
            reel.position = 0;
            reel.reader.take()
        };
        // It would wait for ever, and hold the request, for a wake-up that now goes to another.
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }

    fn reel(&self) -> ReplayBody {
        ReplayBody {
            generation: self.reel.lock().generation,
            reel: Some(self.reel.clone()),
            superseded: self.superseded,
        }
    }
}

impl Reel {
    fn commit(&mut self) {
        if self.recording {
            self.recording = false;
            self.record.drain(..self.position);
            self.position = 0;
        }
    }

    /// What the attempt has not been given yet.
    fn recorded(&mut self) -> Option<Frame<Bytes>> {
        let piece = match self.recording {
            true => {
                let piece = self.record.get(self.position).cloned()?;
                self.position += 1;
                piece
            }
            false => self.record.pop_front()?,
        };
        Some(match piece {
            Piece::Data(data) => Frame::data(data),
            Piece::Trailers(trailers) => Frame::trailers(trailers),
        })
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if !self.recording {
            return;
        }
        let data = frame.data_ref();
        let cost = data.map_or(0, Bytes::len).saturating_add(PIECE);
        match self.room.checked_sub(cost) {
            Some(room) => {
                self.room = room;
                self.record.extend(match (data, frame.trailers_ref()) {
                    (Some(data), _) => Some(Piece::Data(data.clone())),
                    (None, trailers) => trailers.cloned().map(Piece::Trailers),
                });
                self.position = self.record.len();
            }
            // All that was recorded has been given to this attempt, or it would not read the source.
            None => self.commit(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(frame) = self.recorded() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(source) = &mut self.source else {
            return Poll::Ready(None);
        };
        let frame = match Pin::new(source).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                match &mut self.reader {
                    Some(reader) => reader.clone_from(cx.waker()),
                    None => self.reader = Some(cx.waker().clone()),
                }
                return Poll::Pending;
            }
        };
        match &frame {
            Some(Ok(frame)) => self.keep(frame),
            // The caller's own failure: there is no whole body to send again.
            Some(Err(_)) => {
                self.commit();
                self.source = None;
            }
            None => self.source = None,
        }
        Poll::Ready(frame)
    }

    fn is_end(&self) -> bool {
        self.position >= self.record.len()
            && (self.recording || self.record.is_empty())
            && self
                .source
                .as_ref()
                .is_none_or(|source| source.is_end_stream())
    }

    fn size(&self) -> SizeHint {
        let waiting = self.record.iter().skip(self.position);
        let waiting = waiting.map(|piece| match piece {
            Piece::Data(data) => data.len() as u64,
            Piece::Trailers(_) => 0,
        });
        let waiting: u64 = waiting.sum();
        let rest = match &self.source {
            Some(source) => source.size_hint(),
            None => SizeHint::with_exact(0),
        };
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(waiting)) {
            hint.set_upper(upper);
        }
        hint.set_lower(rest.lower().saturating_add(waiting));
        hint
    }
}

/// One attempt's hold on a [`Tape`].
struct ReplayBody {
    reel: Option<Arc<Mutex<Reel>>>,
    generation: u32,
    superseded: Superseded,
}

impl ReplayBody {
    /// The tape, if this attempt still has it.
    fn own(&self) -> Option<MutexGuard<'_, Reel>> {
        let reel = self.reel.as_ref()?.lock();
        (reel.generation == self.generation).then_some(reel)
    }
}

impl http_body::Body for ReplayBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(mut reel) = self.own() {
            let frame = ready!(reel.poll(cx));
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        // An error and not an end, which would make a shorter request of it.
        Poll::Ready(match self.reel.take() {
            Some(_) => Some(Err((self.superseded)())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.reel {
            Some(_) => self.own().is_some_and(|reel| reel.is_end()),
            None => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.own()
            .map_or_else(SizeHint::default, |reel| reel.size())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;

    use super::*;

    const LIMIT: usize = 100;

    /// A request in three frames, of which the second passes the limit.
    fn tape() -> (Held, Body) {
        let frames =
            [60u8, 61, 62].map(|n| Ok::<_, Status>(Frame::data(Bytes::from(vec![n; n.into()]))));
        let source = StreamBody::new(tokio_stream::iter(frames));
        let held = Held::new(Body::new(source), LIMIT, || "superseded".into());
        let attempt = held.attempt();
        (held, attempt)
    }

    /// The first byte of each frame that an attempt gets, and whether it ended well.
    fn read(body: &mut Body, frames: usize) -> (Vec<u8>, bool) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut read = Vec::new();
        while read.len() < frames {
            match Pin::new(&mut *body).poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(frame))) => read.extend(frame.data_ref().map(|data| data[0])),
                Poll::Ready(Some(Err(_))) => return (read, false),
                Poll::Ready(None) => return (read, true),
                Poll::Pending => panic!("the source is always ready"),
            }
        }
        (read, true)
    }

    #[test]
    fn a_body_is_taken_back_whole_or_not_at_all() {
        // The attempt reads on until just before, and all that it could after, as a transport on another thread may.
        for before in 0..=3 {
            let (held, mut first) = tape();
            assert_eq!(read(&mut first, before).0.len(), before);
            let taken = held.take_back();
            assert_eq!(taken, before < 2, "the second frame is not kept");
            let (rest, well) = read(&mut first, usize::MAX);
            if taken {
                assert_eq!((rest, well), (vec![], false), "it gets no more");
                let all = read(&mut held.attempt(), usize::MAX);
                assert_eq!(all, (vec![60, 61, 62], true));
            } else {
                assert_eq!(rest, [60, 61, 62][before..], "it keeps the source");
                assert!(well);
            }
        }
    }

    /// The same with the attempt on a thread: whoever has the source has all of it.
    #[test]
    fn a_request_is_never_cut_while_it_is_taken_back() {
        for _ in 0..500 {
            let (held, mut first) = tape();
            let reader = std::thread::spawn(move || read(&mut first, usize::MAX));
            let taken = held.take_back();
            let second = taken.then(|| read(&mut held.attempt(), usize::MAX));
            let first = reader.join().expect("no panic");
            let whole = (vec![60, 61, 62], true);
            match second {
                Some(second) => assert!(second == whole && !first.1),
                None => assert_eq!(first, whole),
            }
        }
    }
}
