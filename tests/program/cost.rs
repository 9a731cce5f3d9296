//! What the program holds in memory for what passes through it. Linux tells.
#![cfg(target_os = "linux")]

use futures_util::future::join_all;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tower_iroh_proto::echo::{EchoRequest, StreamRequest};

use crate::{
    proxies::{client, way},
    running::Running,
    support::PATIENCE,
};

const MB: u64 = 1 << 20;

/// A field of `/proc/PID/status`, in bytes.
fn memory(running: &Running, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.id()));
    let status = status.expect("it is running");
    let line = status.lines().find(|line| line.starts_with(field));
    let kilobytes = line.expect(field).split_whitespace().nth(1);
    kilobytes
        .expect("a value")
        .parse::<u64>()
        .expect("a number")
        << 10
}

#[tokio::test]
async fn a_stream_of_100_mb_passes_in_less_than_64_mb() {
    let (_backend, exposed, gateway, address) = way().await;
    let asked = StreamRequest {
        count: 100,
        size: MB as u32,
        interval_ms: 0,
    };
    let stream = client(&address).server_stream(asked).await;
    let mut stream = stream.expect("begun").into_inner();
    let all = async {
        let mut bytes = 0;
        while let Some(message) = stream.message().await.expect("a message") {
            bytes += message.payload.len() as u64;
        }
        bytes
    };
    let bytes = timeout(PATIENCE * 4, all).await.expect("in time");
    assert_eq!(bytes, 100 * MB);
    for (name, running) in [("expose", &exposed), ("gateway", &gateway)] {
        let most = memory(running, "VmHWM:");
        assert!(most < 64 * MB, "{name}: {} MB", most / MB);
    }
}

#[tokio::test]
async fn an_idle_stream_costs_less_than_64_kb() {
    const STREAMS: usize = 1000;
    let (_backend, exposed, gateway, address) = way().await;
    // One connection takes a thousand streams, and there are ten more.
    let clients = [client(&address), client(&address)];
    let begin = async |number: usize| {
        let (say, said) = mpsc::channel(1);
        say.send(EchoRequest::default()).await.expect("taken");
        let mut client = clients[number % 2].clone();
        let answers = client.bidi_stream(ReceiverStream::new(said)).await;
        let mut answers = answers.expect("begun").into_inner();
        answers.message().await.expect("an answer").expect("one");
        (say, answers)
    };
    // The connections, buffers and threads that any use needs are there before.
    let warm = join_all((0..10).map(&begin)).await;
    let before = [&exposed, &gateway].map(|it| memory(it, "VmRSS:"));
    let mut idle = Vec::new();
    for _ in 0..STREAMS / 10 {
        let ten = timeout(PATIENCE, join_all((0..10).map(&begin))).await;
        idle.extend(ten.expect("in time"));
    }
    for ((name, running), before) in [("expose", &exposed), ("gateway", &gateway)]
        .iter()
        .zip(before)
    {
        let each = memory(running, "VmRSS:").saturating_sub(before) / STREAMS as u64;
        assert!(each < 64 << 10, "{name}: {each} bytes");
        eprintln!("{name}: {each} bytes for an idle stream");
    }
    drop((warm, idle));
}
