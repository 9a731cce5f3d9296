//! Without namespaces: over the lab's network in memory.

use std::time::Duration;

use iroh::{Endpoint, SecretKey};
use tokio::time::{Instant, sleep};
use tower_iroh::{Links, Path, Peer, presets::Offline};
use tower_iroh_lab::{Case, Conditions, Memory, Outcome};

use crate::{
    place::{Arm, Caller, Server, bind},
    traffic::{Pace, Traffic},
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::anywhere("memory_delay", || run(delay)),
        Case::anywhere("memory_loss", || run(loss)),
        Case::anywhere("memory_partition", || run(partition)),
    ]
}

fn run<F: Future<Output = ()>>(case: fn(Memory, Server, Caller) -> F) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for arm in [Arm::Channel, Arm::Tonic] {
            let memory = Memory::new();
            let server = Server::start(endpoint(&memory).await).await;
            let peer = Peer::from(memory.address(server.endpoint.id()));
            let caller = Caller::over(arm, &peer, Links::new(endpoint(&memory).await));
            case(memory, server, caller).await;
        }
    });
    Ok(())
}

async fn endpoint(memory: &Memory) -> Endpoint {
    let key = SecretKey::generate();
    let transport = memory.transport(key.public());
    let builder = Endpoint::builder(Offline).secret_key(key);
    let builder = builder.clear_ip_transports();
    bind(builder.add_custom_transport(transport)).await
}

const DELAY: Duration = Duration::from_millis(25);

fn slow() -> Conditions {
    Conditions::wan(2 * DELAY)
}

async fn delay(memory: Memory, server: Server, caller: Caller) {
    memory.set(caller.links.endpoint().id(), caller.peer, slow());
    let mut traffic = Traffic::start("delay", &caller.service, Pace::default()).await;
    traffic.goes_on(50, 20).await;
    let stats = caller.links.stats(caller.peer).expect("connected");
    assert!(matches!(stats.path, Some(Path::Other(_))), "{stats}");
    let report = traffic.stop().await;
    report.check_all_well(&server.desk);
    for call in &report.calls {
        assert!(call.took() >= 2 * DELAY, "there and back: {call:?}");
    }
}

async fn loss(memory: Memory, server: Server, caller: Caller) {
    let us = caller.links.endpoint().id();
    memory.set(us, caller.peer, slow().with_loss(0.05));
    let mut traffic = Traffic::start("loss", &caller.service, Pace::default()).await;
    traffic.goes_on(100, 50).await;
    traffic.stop().await.check_all_well(&server.desk);
    assert!(
        memory.take_counts(us, caller.peer).lost > 0,
        "some were lost"
    );
}

async fn partition(memory: Memory, server: Server, caller: Caller) {
    let us = caller.links.endpoint().id();
    memory.set(us, caller.peer, slow());
    let mut traffic = Traffic::start("partition", &caller.service, Pace::default()).await;
    traffic.goes_on(20, 10).await;
    memory.cut(us, caller.peer);
    sleep(Duration::from_secs(1)).await;
    memory.restore(us, caller.peer);
    let restored = Instant::now();
    traffic.answers_to_what_began_after(restored).await;
    let report = traffic.stop().await;
    report.check_all_well(&server.desk);
    let first = report.first_answer(restored);
    assert!(
        first.is_some_and(|after| after < Duration::from_secs(2)),
        "{first:?}"
    );
    assert!(memory.take_counts(us, caller.peer).cut > 0, "it was cut");
}
