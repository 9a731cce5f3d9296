//! One peer of three is not reached any more; the others must not notice.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::Code;
use tower_iroh::{Links, Peer};
use tower_iroh_lab::{Case, Conditions, Network, Outcome};

use crate::{
    place::{Arm, Caller, Server, bind, everywhere},
    traffic::{Pace, Report, Traffic},
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("one_of_three_peers_becomes_a_black_hole", becomes),
        Case::new("one_of_three_peers_was_never_there", never_there),
    ]
}

/// As short as it can be for its expiry to count as a failure of the peer's.
const TIMEOUT: Duration = Duration::from_secs(1);
/// What a call to the black hole may take beyond its timeout, on a busy machine.
const LATE: Duration = Duration::from_millis(500);
/// What a p99 of twenty milliseconds' work may come to on a busy machine. Who waited for the black hole would take a timeout.
const BESIDE: Duration = Duration::from_millis(400);
/// Enough calls for a p99, and for the black hole's to fail and the breaker to open.
const WHILE: Duration = Duration::from_secs(5);
const SERVERS: [&str; 3] = ["one", "two", "three"];

fn becomes() -> Outcome {
    run(Some(Duration::from_secs(3)))
}

fn never_there() -> Outcome {
    run(None)
}

/// With the black hole a good peer for so long at first.
fn run(good_for: Option<Duration>) -> Outcome {
    let network = Network::new(["client", "one", "two", "three"])?;
    let case = one_black_hole(network.clone(), good_for);
    network.host("client").block_on(case);
    Ok(())
}

/// The three share one [`Links`], as the channels of one program do.
async fn one_black_hole(network: Network, good_for: Option<Duration>) {
    let mut parties = Vec::new();
    let links = Links::builder(bind(everywhere()).await)
        .max_connections(3)
        .build()
        .expect("valid");
    for name in SERVERS {
        network
            .link("client", name)
            .set(Conditions::wan(Duration::from_millis(20)));
        let (server, peer) = Server::on(network.host(name)).await;
        parties.push((name, server, peer));
    }
    let hole = network.link("client", "three");
    if good_for.is_none() {
        hole.cut();
    }
    let mut circuits = Vec::new();
    let mut start = async |name: &str, peer: &Peer| {
        let caller = Caller::over(Arm::Hasty(TIMEOUT), peer, links.clone());
        circuits.push((name.to_owned(), caller.stack.clone().expect("a channel's")));
        Traffic::start(name, &caller.service, Pace::calls()).await
    };
    let mut traffics = Vec::new();
    for (name, _, peer) in &parties[..2] {
        let mut traffic = start(name, peer).await;
        traffic.goes_on(10, 0).await;
        traffics.push(traffic);
    }
    let mut before = Instant::now();
    if good_for.is_some() {
        let (name, _, peer) = &parties[2];
        let mut traffic = start(name, peer).await;
        traffic.goes_on(10, 0).await;
        traffics.push(traffic);
        before = Instant::now();
    }
    // Long enough for a p99 of its own.
    sleep(good_for.unwrap_or(Duration::from_secs(3))).await;
    let cut = Instant::now();
    hole.cut();
    if good_for.is_none() {
        let (name, _, peer) = &parties[2];
        traffics.push(start(name, peer).await);
    }
    sleep(WHILE).await;
    let until = Instant::now();
    let mut reports: Vec<Report> = Vec::new();
    let circuits: Vec<_> = circuits
        .iter()
        .map(|(name, stack)| (name.clone(), stack.circuit().state()))
        .collect();
    for traffic in traffics {
        reports.push(traffic.stop().await);
    }
    for ((name, server, _), report) in parties.iter().zip(&reports).take(2) {
        report.check_all_well(&server.desk);
        let was = report.quantile(before, cut, 0.99);
        let is = report.quantile(cut, until, 0.99);
        println!("{name}: p99 {was:?} before, {is:?} beside the black hole");
        assert!(is < was + BESIDE, "{name}: {was:?}, {is:?}");
    }
    let (_, server, _) = &parties[2];
    let report = &reports[2];
    report.check(&server.desk, &[Code::DeadlineExceeded, Code::Unavailable]);
    let lost: Vec<_> = report
        .calls
        .iter()
        .filter(|call| call.began > cut)
        .collect();
    assert!(!lost.is_empty(), "it was called");
    for call in &lost {
        assert!(call.outcome.is_err(), "{call:?}");
        assert!(call.took() < TIMEOUT + LATE, "{call:?}");
    }
    for (name, state) in &circuits {
        assert_eq!(state.is_closed(), name != "three", "{name}: {state:?}");
    }
    let fast = lost.iter().filter(|call| call.took() < TIMEOUT / 2).count();
    println!(
        "the black hole: {} calls, {fast} of them failed fast",
        lost.len()
    );
}
