use std::{
    sync::atomic::AtomicUsize,
    task::{Wake, Waker},
    thread,
};

use proptest::prelude::*;

use super::{
    super::store::{MOST_BYTES, MOST_COPIES},
    *,
};

/// A stream of which so much has arrived.
struct Stream<'a> {
    bytes: &'a [u8],
    arrived: usize,
    read: usize,
    end: End,
}

#[derive(Clone, Copy)]
enum End {
    Open,
    Finished,
    Reset,
}

impl<'a> Stream<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            arrived: 0,
            read: 0,
            end: End::Open,
        }
    }
}

impl AsyncRead for Stream<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.bytes[self.read..self.arrived];
        match (rest.len(), self.end) {
            (_, End::Reset) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            (0, End::Open) => Poll::Pending,
            (0, End::Finished) => Poll::Ready(Ok(())),
            (some, _) => {
                let taken = some.min(buf.remaining());
                buf.put_slice(&rest[..taken]);
                self.read += taken;
                Poll::Ready(Ok(()))
            }
        }
    }
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A reader with what it has read, and what woke it.
struct Lane<'a> {
    stream: Stream<'a>,
    reader: Reader,
    got: Vec<u8>,
    used: AtomicU64,
    woken: Arc<Woken>,
}

impl<'a> Lane<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            stream: Stream::new(bytes),
            reader: Reader::new(0),
            got: Vec::new(),
            used: AtomicU64::new(0),
            woken: Arc::default(),
        }
    }

    /// Reads once into a buffer of that size; how many bytes came, `None` for none yet.
    fn read(&mut self, room: usize) -> Option<io::Result<usize>> {
        let waker = Waker::from(self.woken.clone());
        let mut buffer = vec![0; room];
        let mut buf = ReadBuf::new(&mut buffer);
        let polled = self.reader.poll_read(
            &mut self.stream,
            &mut Context::from_waker(&waker),
            &mut buf,
            &self.used,
        );
        match polled {
            Poll::Pending => {
                assert!(buf.filled().is_empty(), "what is pending has read nothing");
                None
            }
            Poll::Ready(Err(error)) => Some(Err(error)),
            Poll::Ready(Ok(())) => {
                self.got.extend_from_slice(buf.filled());
                Some(Ok(buf.filled().len()))
            }
        }
    }

    fn read_all(&mut self) {
        while let Some(Ok(1..)) = self.read(64) {}
    }

    fn copy(&self, range: std::ops::Range<usize>) {
        let bytes = &self.stream.bytes[range.clone()];
        self.reader.inbox().leave(range.start as u64, bytes);
    }

    fn woken(&self) -> usize {
        self.woken.0.load(Ordering::SeqCst)
    }

    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn kept(&self) -> (usize, usize) {
        lock(&self.reader.inbox.store).holds()
    }
}

const TEXT: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

#[test]
fn a_copy_fills_the_hole_wakes_the_reader_and_is_skipped_in_the_stream() {
    let mut lane = Lane::new(TEXT);
    lane.stream.arrived = 5;
    lane.read_all();
    assert_eq!(lane.woken(), 0);
    // The packet with 5..10 is lost; what comes after it waits in the stream, and its copy comes before the other's.
    lane.copy(10..15);
    assert_eq!(lane.read(64).map(|read| read.expect("fine")), None);
    lane.copy(5..10);
    assert_eq!(lane.woken(), 2);
    assert_eq!(lane.read(64).expect("ready").expect("fine"), 10);
    assert_eq!(lane.got, &TEXT[..15]);
    assert_eq!(lane.used(), 2);
    assert_eq!(lane.kept(), (0, 0));
    // The loss is mended: the stream gives 5..20 at once.
    lane.stream.arrived = 20;
    assert_eq!(lane.read(64).expect("ready").expect("fine"), 5);
    assert_eq!(lane.got, &TEXT[..20]);
    // The second copies are behind by now, and nobody is woken for them.
    let woken = lane.woken();
    lane.copy(5..10);
    lane.copy(10..15);
    assert_eq!((lane.woken(), lane.kept(), lane.used()), (woken, (0, 0), 2));
}

#[test]
fn a_small_buffer_gets_a_copy_in_pieces_and_it_counts_once() {
    let mut lane = Lane::new(TEXT);
    lane.copy(0..10);
    lane.read(3);
    lane.stream.arrived = 7;
    for _ in 0..4 {
        lane.read(2);
    }
    assert_eq!(lane.got, &TEXT[..10]);
    assert_eq!(lane.used(), 1);
}

#[test]
fn the_end_comes_from_the_stream_and_nothing_after_it() {
    let mut lane = Lane::new(&TEXT[..10]);
    lane.copy(0..10);
    lane.read_all();
    assert_eq!(lane.got, &TEXT[..10]);
    assert!(lane.read(64).is_none(), "a copy does not end a stream");
    lane.stream.arrived = 10;
    lane.stream.end = End::Finished;
    assert_eq!(lane.read(64).expect("ready").expect("the end"), 0);
    lane.reader.inbox().leave(10, b"more");
    assert_eq!(lane.read(64).expect("ready").expect("the end"), 0);
    assert_eq!(lane.kept(), (0, 0));
}

#[test]
fn a_reset_comes_through_also_while_copies_are_ahead() {
    let mut lane = Lane::new(TEXT);
    lane.copy(0..10);
    lane.copy(12..15);
    lane.read_all();
    lane.stream.end = End::Reset;
    lane.copy(10..12);
    for _ in 0..2 {
        let error = lane.read(64).expect("ready").expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!(lane.got, &TEXT[..10]);
}

#[test]
fn whoever_copies_beyond_the_end_of_the_stream_has_its_lane_fail() {
    let mut lane = Lane::new(&TEXT[..10]);
    lane.reader.inbox().leave(0, &TEXT[..15]);
    lane.read_all();
    lane.stream.arrived = 10;
    lane.stream.end = End::Finished;
    let error = lane.read(64).expect("ready").expect_err("a lie");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn an_empty_buffer_decides_nothing() {
    let mut lane = Lane::new(TEXT);
    lane.stream.arrived = 5;
    assert_eq!(lane.read(0).expect("ready").expect("fine"), 0);
    lane.read_all();
    lane.copy(5..8);
    lane.read_all();
    assert_eq!(lane.got, &TEXT[..8]);
}

/// A reader that sleeps and somebody who wakes it only with copies, in two threads: a wake-up that is lost would leave it
/// asleep for ever.
#[test]
fn no_wake_up_is_lost() {
    const BYTES: usize = 20_000;
    let bytes: Vec<u8> = (0..BYTES).map(|n| n as u8).collect();
    let mut reader = Reader::new(0);
    let inbox = reader.inbox().clone();
    let read = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for (at, byte) in bytes.iter().enumerate() {
                inbox.leave(at as u64, std::slice::from_ref(byte));
                // One copy at a time, so that nothing but its own wake-up tells the reader of it.
                while read.load(Ordering::Acquire) <= at {
                    thread::yield_now();
                }
            }
        });
        let reading = async {
            let mut stream = Stream::new(&bytes);
            let used = AtomicU64::new(0);
            let mut buffer = [0; 8];
            for at in 0..BYTES {
                let mut buf = ReadBuf::new(&mut buffer);
                std::future::poll_fn(|cx| reader.poll_read(&mut stream, cx, &mut buf, &used))
                    .await
                    .expect("fine");
                assert_eq!(buf.filled(), [at as u8]);
                read.store(at + 1, Ordering::Release);
            }
            used.into_inner()
        };
        let within = std::time::Duration::from_secs(60);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let used = runtime.block_on(async { tokio::time::timeout(within, reading).await });
        // Let the other thread end before the test fails.
        read.store(BYTES, Ordering::Release);
        assert_eq!(used.expect("no wake-up was lost"), BYTES as u64);
    });
}

/// What happens to a lane.
#[derive(Clone, Debug)]
enum Event {
    Arrives(usize),
    /// A copy of some bytes, wherever they stand.
    Copy(usize, usize),
    Read(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0usize..400).prop_map(Event::Arrives),
        (0usize..4000, 1usize..1000).prop_map(|(start, len)| Event::Copy(start, len)),
        (0usize..4000, 1usize..40).prop_map(|(start, len)| Event::Copy(start, len)),
        (1usize..600).prop_map(Event::Read),
    ]
}

proptest! {
    /// Copies missing, doubled, in any order, overlapping in any way: what is read is what was written.
    #[test]
    fn exactly_the_written_bytes_are_read(
        bytes in proptest::collection::vec(any::<u8>(), 1..4000),
        events in proptest::collection::vec(event(), 0..200),
    ) {
        let mut lane = Lane::new(&bytes);
        for event in events {
            match event {
                Event::Arrives(some) => lane.stream.arrived = (lane.stream.arrived + some).min(bytes.len()),
                Event::Copy(start, len) => {
                    let start = start.min(bytes.len() - 1);
                    let before = lane.woken();
                    let asleep = lane.read(1).is_none();
                    lane.copy(start..(start + len).min(bytes.len()));
                    if asleep && lane.read(1).is_some() {
                        prop_assert!(lane.woken() > before, "what is there to be read wakes");
                    }
                }
                Event::Read(room) => {
                    if let Some(read) = lane.read(room) {
                        read.expect("nothing fails");
                    }
                }
            }
            prop_assert_eq!(&lane.got[..], &bytes[..lane.got.len()]);
            let (kept, copies) = lane.kept();
            prop_assert!(kept <= MOST_BYTES && copies <= MOST_COPIES);
        }
        lane.stream.arrived = bytes.len();
        lane.read_all();
        prop_assert_eq!(&lane.got, &bytes);
        lane.stream.end = End::Finished;
        prop_assert_eq!(lane.read(64).expect("ready").expect("the end"), 0);
    }

    /// A peer may send any datagram. It can spoil its own lane, and nothing else.
    #[test]
    fn lies_are_bounded(
        lies in proptest::collection::vec((prop_oneof![0u64..200_000, any::<u64>()], 1usize..70_000), 1..300),
        rooms in proptest::collection::vec(1usize..5000, 1..20),
    ) {
        let bytes = vec![7; 100_000];
        let mut lane = Lane::new(&bytes);
        let mut rooms = rooms.iter().cycle();
        for (n, (offset, len)) in lies.into_iter().enumerate() {
            lane.reader.inbox().leave(offset, &vec![9; len]);
            lane.stream.arrived = (lane.stream.arrived + 300).min(bytes.len());
            let (kept, copies) = lane.kept();
            prop_assert!(kept <= MOST_BYTES && copies <= MOST_COPIES);
            if n % 3 == 0 && let Some(read) = lane.read(*rooms.next().expect("for ever")) {
                prop_assert!(read.expect("fine so far") > 0);
            }
        }
        lane.stream.arrived = bytes.len();
        lane.stream.end = End::Finished;
        // It ends: with the end, or with the lie found out.
        for _ in 0..1_000_000 {
            match lane.read(5000).expect("the stream has ended") {
                Ok(1..) => {}
                Ok(0) => return Ok(()),
                Err(error) => {
                    prop_assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                    return Ok(());
                }
            }
        }
        prop_assert!(false, "it goes on for ever");
    }
}
