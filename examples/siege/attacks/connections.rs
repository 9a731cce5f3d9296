//! Connections that are complete, and of no use.

use std::{future::pending, time::Duration};

use iroh::SecretKey;
use tokio::{io::AsyncReadExt as _, task::JoinSet, time::sleep};

use super::{
    Target,
    wire::{self, Over, Who},
};
use crate::Error;

/// How many keys an attack makes up.
const KEYS: u32 = 256;
/// How many connections an attacker with one key tries to have: twice what it may.
const ONE_KEY: u32 = 32;
/// How many sources the keys come from.
const SOURCES: u32 = 32;

pub(super) async fn free_keys(target: Target) -> Result<(), Error> {
    let key = |target: &Target| target.key(Who::Stranger);
    idle(target, KEYS, SOURCES, key).await
}

pub(super) async fn one_key(target: Target) -> Result<(), Error> {
    let key = target.key(Who::Stranger);
    idle(target, ONE_KEY, 1, move |_| key.clone()).await
}

/// Keeps connections open on which nothing happens, and opens those again that the server closes.
async fn idle(
    target: Target,
    connections: u32,
    sources: u32,
    key: impl Fn(&Target) -> SecretKey,
) -> Result<(), Error> {
    let mut idle = JoinSet::new();
    for number in 0..connections {
        for over in target.over.clone() {
            let (target, key) = (target.clone(), key(&target));
            let from = wire::source(number % sources);
            idle.spawn(async move {
                loop {
                    if once(&target, over, &key, from).await.is_ok() {
                        target.spent.ended();
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            });
        }
    }
    idle.join_all().await;
    pending().await
}

/// Connects, and waits for the end.
async fn once(
    target: &Target,
    over: Over,
    key: &SecretKey,
    from: std::net::Ipv4Addr,
) -> Result<(), Error> {
    match over {
        Over::Quic => {
            let endpoint = target.endpoint(key.clone(), from).await?;
            let connection = target.quic(&endpoint).await?;
            connection.closed().await;
            endpoint.close().await;
        }
        Over::Tcp => {
            let mut stream = target.tls(key, from).await?;
            let mut heard = [0; 256];
            while stream.read(&mut heard).await? > 0 {}
        }
    }
    Ok(())
}
