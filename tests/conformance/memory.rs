//! 100 MiB through one call, in a process of its own, whose peak memory the kernel reports.

use std::{fs, process::Stdio};

use futures_util::stream;
use tokio::process::Command;
use tower_iroh_proto::testing::{
    Payload, ResponseParameters, StreamingInputRequest, StreamingOutputRequest,
};

use crate::support::{
    Arm, ServerOptions, World,
    payload::{LARGEST, is_payload, payload},
};

const MESSAGES: u64 = 100;
const SIZE: usize = 1 << 20;
/// How much the process may grow at its peak, client and server together.
const FLAT: u64 = 64 << 10;
/// Says to the child what to do: `<arm> <mode>`.
const ORDER: &str = "TOWER_IROH_CONFORMANCE_MEMORY";
const ANSWER: &str = "peak_growth_kib=";

pub async fn stream_100_mib_down(world: &World) -> String {
    assert_flat(world.arm(), "down").await
}

pub async fn stream_100_mib_up(world: &World) -> String {
    assert_flat(world.arm(), "up").await
}

async fn assert_flat(arm: Arm, mode: &str) -> String {
    let grown = grown(arm, mode).await;
    assert!(grown < FLAT, "the process grew by {grown} KiB");
    // Rounded up to a power of two, for the exact figure differs from run to run.
    let bound = grown.div_ceil(1024).next_power_of_two();
    format!("grew by at most {bound} MiB")
}

/// Were the stream gathered instead of read, it would be seen.
#[tokio::test]
async fn measurement_sees_what_is_kept() {
    let grown = grown(Arm::Tcp, "keep").await;
    let kept = MESSAGES * SIZE as u64 / 1024;
    // Some of it fits where the start had something else.
    assert!(
        grown > kept - kept / 10,
        "{kept} KiB kept, {grown} KiB seen"
    );
}

/// Runs `memory::child` and returns by how many KiB its peak was above its start.
async fn grown(arm: Arm, mode: &str) -> u64 {
    let program = std::env::current_exe().expect("this program");
    let child = Command::new(program)
        .args(["--exact", "memory::child", "--ignored", "--nocapture"])
        .env(ORDER, format!("{} {mode}", arm.name()))
        .stdin(Stdio::null())
        .output();
    let output = child.await.expect("a child process");
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = text.split_once(ANSWER).map(|(_, rest)| rest);
    let digits = answer.and_then(|rest| rest.split_whitespace().next());
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(grown) if output.status.success() => grown,
        _ => panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the memory cases run it in a process of its own"]
async fn child() {
    let Ok(order) = std::env::var(ORDER) else {
        return;
    };
    let (arm, mode) = order.split_once(' ').expect("an arm and a mode");
    let arm = Arm::ALL.into_iter().find(|it| it.name() == arm);
    let world = World::start(arm.expect("an arm"), ServerOptions::default()).await;

    // The pattern and the buffers of a first transfer belong to the start.
    drop(payload(LARGEST, 0));
    transfer(&world, mode, 4).await;
    // 5 resets the peak, see proc_pid_clear_refs(5).
    fs::write("/proc/self/clear_refs", "5").expect("Linux");
    let start = memory("VmRSS:");
    transfer(&world, mode, MESSAGES).await;
    let grown = memory("VmHWM:").saturating_sub(start);
    println!("{ANSWER}{grown} ");
    world.stop().await;
}

async fn transfer(world: &World, mode: &str, messages: u64) {
    match mode {
        "up" => up(world, messages).await,
        "down" => down(world, messages, false).await,
        "keep" => down(world, messages, true).await,
        _ => panic!("no mode {mode}"),
    }
}

async fn down(world: &World, messages: u64, keep: bool) {
    let mut client = world.test_client().await;
    let parameters = ResponseParameters {
        size: SIZE as u32,
        interval_ms: 0,
    };
    let request = StreamingOutputRequest {
        responses: vec![parameters; messages as usize],
        ..StreamingOutputRequest::default()
    };
    let call = client.streaming_output_call(request).await;
    let mut responses = call.expect("OK").into_inner();
    let mut kept = Vec::new();
    for number in 0..messages {
        let response = responses.message().await.expect("OK").expect("a message");
        let body = response.payload.expect("a payload").body;
        assert!(body.len() == SIZE && is_payload(&body, number));
        if keep {
            kept.push(body);
        }
    }
    assert!(responses.message().await.expect("OK").is_none());
}

async fn up(world: &World, messages: u64) {
    let mut client = world.test_client().await;
    let requests = stream::iter((0..messages).map(|number| StreamingInputRequest {
        payload: Some(Payload {
            body: payload(SIZE, number),
        }),
    }));
    let response = client.streaming_input_call(requests).await;
    let response = response.expect("OK").into_inner();
    assert_eq!(response.count, messages);
    assert_eq!(response.aggregated_size, messages * SIZE as u64);
}

/// A line of `/proc/self/status`, in KiB.
fn memory(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let value = status.lines().find_map(|it| it.strip_prefix(line));
    let value = value.and_then(|it| it.trim().strip_suffix(" kB"));
    value.expect(line).trim().parse().expect("a number")
}
