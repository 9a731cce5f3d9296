//! iroh loses packets of its own on an idle loopback: the cooperative budget of tokio's task runs out, and the send that meets it is
//! dropped. See README.md beside this.
//!
//! ```sh
//! cargo run --release            # both cases
//! cargo run --release -- 2048    # with so many MiB instead of 1024
//! ```

use std::{error::Error, fs, time::Instant};

use iroh::{
    Endpoint, EndpointAddr, RelayMode,
    endpoint::{Connection, QuicTransportConfig, RecvStream, SendStream, VarInt, presets},
};

const ALPN: &[u8] = b"budget-loss";
const MIB: usize = 1 << 20;
/// So many echoes of one MiB each are on their way at a time, on one stream: 4 is what shows it best.
const IN_FLIGHT: usize = 4;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome {
    let mib = match std::env::args().nth(1) {
        Some(mib) => mib.parse()?,
        None => 1024,
    };
    println!("{mib} MiB there and back over one stream, both ends in this process");
    println!(
        "windows   direction          sent packets  lost packets  lost %   MB/s  kernel drops"
    );
    run("default", QuicTransportConfig::builder().build(), mib).await?;
    let small = VarInt::from_u32(128 * 1024);
    let config = QuicTransportConfig::builder()
        .receive_window(small)
        .stream_receive_window(small)
        .build();
    run("128 KiB", config, mib).await
}

async fn run(name: &str, config: QuicTransportConfig, mib: usize) -> Outcome {
    let server = bind(&config).await?;
    let client = bind(&config).await?;
    let addr = server.bound_sockets().into_iter().next();
    let addr = EndpointAddr::new(server.id()).with_ip_addr(addr.ok_or("no socket")?);

    let accepting = async {
        let incoming = server.accept().await.ok_or("closed")?;
        Outcome::Ok(incoming.await?)
    };
    let dialling = async { Outcome::Ok(client.connect(addr, ALPN).await?) };
    let (accepted, dialled) = tokio::try_join!(accepting, dialling)?;

    let before = kernel_drops()?;
    let began = Instant::now();
    let echoing = tokio::spawn(echo(accepted.clone()));
    transfer(&dialled, mib).await?;
    let took = began.elapsed();
    echoing.await??;
    let drops = kernel_drops()? - before;

    // Both directions together, as an echo goes both ways at once.
    let rate = 2.0 * (mib * MIB) as f64 / 1e6 / took.as_secs_f64();
    for (direction, connection) in [
        ("client to server", &dialled),
        ("server to client", &accepted),
    ] {
        let stats = connection.stats();
        let (sent, lost) = (stats.sent_packets, stats.lost_packets);
        let percent = 100.0 * lost as f64 / sent as f64;
        println!(
            "{name:<9} {direction:<18} {sent:>12}  {lost:>12}  {percent:>6.3}  {rate:>5.0}  {drops:>12}"
        );
    }
    client.close().await;
    server.close().await;
    Ok(())
}

/// One socket on loopback: no relay, no address lookup, nothing to discover.
async fn bind(config: &QuicTransportConfig) -> Outcome<Endpoint> {
    let builder = Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .transport_config(config.clone())
        .alpns(vec![ALPN.to_vec()])
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")?;
    Ok(builder.bind().await?)
}

async fn echo(connection: Connection) -> Outcome {
    let (mut send, mut recv) = connection.accept_bi().await?;
    let mut message = vec![0; MIB];
    while recv.read_exact(&mut message).await.is_ok() {
        send.write_all(&message).await?;
    }
    Ok(send.finish()?)
}

/// Writes ahead of what comes back, by [`IN_FLIGHT`] messages at the most.
async fn transfer(connection: &Connection, mib: usize) -> Outcome {
    let (send, recv) = connection.open_bi().await?;
    let room = std::sync::Arc::new(tokio::sync::Semaphore::new(IN_FLIGHT));
    tokio::try_join!(push(send, mib, &room), pull(recv, mib, &room))?;
    Ok(())
}

async fn push(mut send: SendStream, mib: usize, room: &tokio::sync::Semaphore) -> Outcome {
    let message = vec![7; MIB];
    for _ in 0..mib {
        room.acquire().await?.forget();
        send.write_all(&message).await?;
    }
    Ok(send.finish()?)
}

async fn pull(mut recv: RecvStream, mib: usize, room: &tokio::sync::Semaphore) -> Outcome {
    let mut message = vec![0; MIB];
    for _ in 0..mib {
        recv.read_exact(&mut message).await?;
        room.add_permits(1);
    }
    Ok(())
}

/// UDP datagrams that this machine's kernel dropped since it started: full socket buffers, on either side.
fn kernel_drops() -> Outcome<u64> {
    let snmp = fs::read_to_string("/proc/net/snmp")?;
    let mut lines = snmp.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = lines.next().zip(lines.next()).ok_or("no UDP counters")?;
    let of = |(name, value): (&str, &str)| match name {
        "InErrors" | "RcvbufErrors" | "SndbufErrors" | "MemErrors" => value.parse().ok(),
        _ => Some(0),
    };
    let drops = names.split(' ').zip(values.split(' ')).filter_map(of);
    Ok(drops.sum::<u64>())
}
