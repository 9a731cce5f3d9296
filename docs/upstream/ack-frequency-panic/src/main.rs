//! Connections with the ack frequency extension, one call on each, until one of them panics. See README.md beside this.
//!
//! ```sh
//! RUST_BACKTRACE=1 cargo run --release -- 60000
//! ```

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use iroh::{
    Endpoint, EndpointAddr, RelayMode,
    endpoint::{Incoming, QuicTransportConfig, presets},
};
use noq_proto::AckFrequencyConfig;
use tokio::task::JoinSet;

const ALPN: &[u8] = b"ack-frequency-panic";
/// So many connections are made at a time.
const CALLERS: usize = 4;
/// What a call sends, and gets back.
const SIZE: usize = 64;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome {
    let wanted = match std::env::args().nth(1) {
        Some(wanted) => wanted.parse()?,
        None => 60_000,
    };
    let (server, client) = (bind().await?, bind().await?);
    let addr = server.bound_sockets().into_iter().next();
    let addr = EndpointAddr::new(server.id()).with_ip_addr(addr.ok_or("no socket")?);
    let serving = tokio::spawn({
        let server = server.clone();
        async move {
            while let Some(incoming) = server.accept().await {
                tokio::spawn(answer(incoming));
            }
        }
    });

    let begun = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (client, addr, begun) = (client.clone(), addr.clone(), begun.clone());
        callers.spawn(async move {
            loop {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                if number >= wanted {
                    return Outcome::Ok(());
                }
                if number % 1000 == 0 {
                    println!("{number} connections");
                }
                call(&client, addr.clone()).await?;
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    println!("{wanted} connections, and no panic");
    client.close().await;
    server.close().await;
    Ok(serving.await?)
}

async fn bind() -> Outcome<Endpoint> {
    let mut ack_frequency = AckFrequencyConfig::default();
    ack_frequency
        .ack_eliciting_threshold(10_u32.into())
        .max_ack_delay(Some(Duration::from_millis(5)));
    let config = QuicTransportConfig::builder()
        .ack_frequency_config(Some(ack_frequency))
        .build();
    let builder = Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .transport_config(config)
        .alpns(vec![ALPN.to_vec()])
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")?;
    Ok(builder.bind().await?)
}

async fn call(client: &Endpoint, addr: EndpointAddr) -> Outcome {
    let connection = client.connect(addr, ALPN).await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&[7; SIZE]).await?;
    send.finish()?;
    recv.read_to_end(SIZE).await?;
    connection.close(0_u32.into(), b"");
    Ok(())
}

async fn answer(incoming: Incoming) -> Outcome {
    let connection = incoming.await?;
    let (mut send, mut recv) = connection.accept_bi().await?;
    let message = recv.read_to_end(SIZE).await?;
    send.write_all(&message).await?;
    send.finish()?;
    connection.closed().await;
    Ok(())
}
