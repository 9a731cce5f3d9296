//! Streams that the protocol does not have, and lanes that fill whatever can be filled.

use std::{future::pending, sync::Arc, time::Duration};

use iroh::{Endpoint, endpoint::Connection};
use tokio::{
    io::AsyncWriteExt as _,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Target, frames,
    wire::{self, Who, lane, write},
};
use crate::Error;

/// How many strangers fill streams.
const STRANGERS: u32 = 8;
/// How many lanes a connection may have by default.
const LANES: usize = 64;
/// How many connections a caller may have by default.
const CONNECTIONS: u32 = 16;
/// More than a stream's window takes.
const FILL: usize = 2 << 20;

/// One connection of an attacker, and the endpoint that it lives with.
struct Attacker {
    target: Target,
    connection: Connection,
    _endpoint: Endpoint,
}

/// Attackers that do the same until the server closes their connections, and then again.
async fn each<F>(
    target: Target,
    attackers: u32,
    who: Who,
    attack: impl Fn(Arc<Attacker>) -> F + Clone + Send + Sync + 'static,
) -> Result<(), Error>
where
    F: Future<Output = ()> + Send,
{
    let mut running = JoinSet::new();
    for number in 0..attackers {
        let (target, attack) = (target.clone(), attack.clone());
        running.spawn(async move {
            loop {
                if let Ok(endpoint) = target.endpoint(target.key(who), wire::source(number)).await
                    && let Ok(connection) = target.quic(&endpoint).await
                {
                    let attacker = Arc::new(Attacker {
                        target: target.clone(),
                        connection: connection.clone(),
                        _endpoint: endpoint,
                    });
                    tokio::select! {
                        () = attack(attacker) => {}
                        _ = connection.closed() => target.spent.ended(),
                    }
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
    }
    running.join_all().await;
    Ok(())
}

pub(super) async fn unidirectional(target: Target) -> Result<(), Error> {
    each(target, STRANGERS, Who::Stranger, |attacker| async move {
        let mut open = Vec::new();
        loop {
            let Ok(Ok(mut stream)) =
                timeout(Duration::from_millis(200), attacker.connection.open_uni()).await
            else {
                // There are no more; what was opened stays.
                return pending().await;
            };
            let filling = fill(&attacker.target, &mut stream, &[0; FILL]);
            let _ = timeout(Duration::from_millis(50), filling).await;
            open.push(stream);
        }
    })
    .await
}

pub(super) async fn no_preamble(target: Target) -> Result<(), Error> {
    each(target, STRANGERS, Who::Stranger, |attacker| async move {
        let mut open = Vec::new();
        loop {
            let opened = timeout(Duration::from_millis(200), attacker.connection.open_bi());
            let Ok(Ok((mut stream, _reader))) = opened.await else {
                // The server stops them after a while.
                open.clear();
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            // As many preambles as are read at a time stay unfinished. The streams behind them are full.
            match open.len() < 32 {
                true => {
                    let _ = write(&attacker.target, &mut stream, 1, &[1, 0]).await;
                }
                false => {
                    let filling = fill(&attacker.target, &mut stream, &[1; FILL]);
                    let _ = timeout(Duration::from_millis(20), filling).await;
                }
            }
            open.push((stream, _reader));
        }
    })
    .await
}

pub(super) async fn full_lanes_stranger(target: Target) -> Result<(), Error> {
    each(target, STRANGERS, Who::Stranger, |attacker| async move {
        let mut open = Vec::new();
        for _ in 0..LANES {
            let Ok(mut lane) = lane(&attacker.connection).await else {
                break;
            };
            // A frame that is as large as a frame may be, and has not all come.
            let mut said = frames::PREFACE.to_vec();
            said.extend(frames::head(16_384, frames::HEADERS, 4, 1));
            said.extend([0; 16_000]);
            let _ = write(&attacker.target, &mut lane, 2, &said).await;
            let _ = lane.flush().await;
            open.push(lane);
        }
        sleep(Duration::from_secs(1)).await;
        for lane in &mut open {
            let filling = fill(&attacker.target, lane, &[0; FILL]);
            let _ = timeout(Duration::from_millis(50), filling).await;
        }
        drop(open);
    })
    .await
}

pub(super) async fn full_lanes_insider(target: Target) -> Result<(), Error> {
    let attack = |attacker: Arc<Attacker>| async move {
        let mut lanes = JoinSet::new();
        for _ in 0..LANES {
            let attacker = attacker.clone();
            lanes.spawn(async move {
                let Ok(mut lane) = lane(&attacker.connection).await else {
                    return;
                };
                let mut said = frames::PREFACE.to_vec();
                said.extend(frames::request(1, frames::BIDI, false));
                let message = [frames::message(&[7; 16_000])].concat();
                said.extend(frames::frame(frames::DATA, 0, 1, &message));
                let _ = write(&attacker.target, &mut lane, 3, &said).await;
                // What the window lets through: the messages come back, and nobody reads them.
                for _ in 0..64 {
                    let data = frames::frame(frames::DATA, 0, 1, &message);
                    if write(&attacker.target, &mut lane, 1, &data).await.is_err() {
                        return;
                    }
                }
                pending::<()>().await;
                drop(lane);
            });
        }
        lanes.join_all().await;
    };
    each(target, CONNECTIONS, Who::Insider, attack).await
}

/// Writes until the other side takes no more.
async fn fill(
    target: &Target,
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
    bytes: &[u8],
) -> std::io::Result<()> {
    for part in bytes.chunks(16_384) {
        write(target, to, 1, part).await?;
    }
    Ok(())
}
