//! One caller's work during one slice, and what it found.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Fault,
    transport::{Arm, Caller, Link},
    workload::{Shape, Workload},
};

/// Different payloads per caller: enough that an answer given to the wrong call is noticed.
const VARIANTS: usize = 8;

/// When things count.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Before this the caller only gets going.
    pub start: Instant,
    /// From here on no call begins.
    pub end: Instant,
}

/// What one caller found.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answers within the window.
    pub events: u64,
    /// Their payload, both directions.
    pub bytes: u64,
    /// How long what began within the window took.
    pub latencies: Vec<Duration>,
}

impl Tally {
    /// An answer at `now`; the rate counts what ends within the window.
    fn event(&mut self, window: Window, now: Instant, bytes: usize) {
        if now >= window.start && now < window.end {
            self.events += 1;
            self.bytes += bytes as u64;
        }
    }

    /// A latency counts if it began within the window, even if it ends after it: else long ones would be left out.
    fn latency(&mut self, window: Window, began: Instant, now: Instant) {
        if began >= window.start && began < window.end {
            self.latencies.push(now - began);
        }
    }
}

/// The payloads of caller number `caller`.
pub fn payloads(caller: usize, size: usize) -> Vec<Bytes> {
    // A big one is its own variety, and eight of them per caller would only wash the caches.
    let variants = if size > 64 << 10 { 2 } else { VARIANTS };
    (0..variants)
        .map(|variant| {
            let seed = caller * 31 + variant * 101 + 1;
            (0..size)
                .map(|at| (seed + at * 7 + (at >> 8) * 13) as u8)
                .collect()
        })
        .collect()
}

fn check(got: &[u8], want: &[u8]) -> Result<(), Fault> {
    if got.len() != want.len() {
        return Err(format!("asked for {} bytes, got {}", want.len(), got.len()).into());
    }
    if got != want {
        return Err(format!("{} bytes came back changed", want.len()).into());
    }
    Ok(())
}

/// Works until the window ends.
pub async fn work<C: Caller>(
    caller: &mut C,
    workload: Workload,
    payloads: &[Bytes],
    window: Window,
) -> Result<Tally, Fault> {
    let mut tally = Tally::default();
    match workload.shape {
        Shape::Unary => {
            for payload in payloads.iter().cycle() {
                let began = Instant::now();
                if began >= window.end {
                    break;
                }
                let answer = caller.unary(payload.clone()).await?;
                let now = Instant::now();
                check(&answer, payload)?;
                tally.event(window, now, 2 * workload.size);
                tally.latency(window, began, now);
            }
        }
        Shape::ServerStream { messages } => {
            let zeros = vec![0; workload.size];
            loop {
                let began = Instant::now();
                if began >= window.end {
                    break;
                }
                let mut got = 0;
                caller
                    .server_stream(messages, workload.size as u32, &mut |message| {
                        check(message, &zeros)?;
                        got += 1;
                        tally.event(window, Instant::now(), workload.size);
                        Ok(true)
                    })
                    .await?;
                if got != messages {
                    return Err(format!("asked for {messages} messages, got {got}").into());
                }
                tally.latency(window, began, Instant::now());
            }
        }
        Shape::PingPong => {
            let payload = &payloads[0];
            let mut began = Instant::now();
            caller
                .ping_pong(payload.clone(), &mut |reply| {
                    let now = Instant::now();
                    check(reply, payload)?;
                    tally.event(window, now, 2 * workload.size);
                    tally.latency(window, began, now);
                    began = Instant::now();
                    Ok(now < window.end)
                })
                .await?;
        }
        Shape::Connect => unreachable!("connecting has no caller yet"),
    }
    Ok(tally)
}

/// Connects, calls once and closes, until the window ends; closing is not in the time.
pub async fn connect<A: Arm>(
    arm: Arc<A>,
    workload: Workload,
    payloads: &[Bytes],
    window: Window,
) -> Result<Tally, Fault> {
    let mut tally = Tally::default();
    for payload in payloads.iter().cycle() {
        let began = Instant::now();
        if began >= window.end {
            break;
        }
        let link = arm.link().await?;
        let mut caller = link.caller().await?;
        let answer = caller.unary(payload.clone()).await?;
        let now = Instant::now();
        check(&answer, payload)?;
        tally.event(window, now, 2 * workload.size);
        tally.latency(window, began, now);
        drop(caller);
        link.close().await;
    }
    Ok(tally)
}
