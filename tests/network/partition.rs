//! The link is cut for a while, in the middle of calls and streams.

use std::time::Duration;

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::Code;
use tower_iroh::{Channel, Peer};
use tower_iroh_lab::{Case, Conditions, Network, Outcome};
use tower_iroh_proto::echo::echo_client::EchoClient;

use crate::{
    dual,
    place::{Arm, Caller, status},
    support::{Desk, Service, request},
    traffic::{Pace, Report, Traffic},
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("partition_of_1_s", || short(Duration::from_secs(1))),
        Case::new("partition_of_5_s", || short(Duration::from_secs(5))),
        Case::new("partition_of_30_s", long),
    ]
}

/// From the link's return to the first answer of a new call.
const TARGET: Duration = Duration::from_millis(1500);
const ROUND_TRIP: Duration = Duration::from_millis(40);
/// How long a call of [`Arm::Hasty`] may take: as short as it can be for its expiry to count as a failure of the peer's.
const HASTY: Duration = Duration::from_secs(1);

/// The kinds of clients: over iroh, or our `Channel` over TCP.
#[derive(Clone, Copy, Debug)]
enum Way {
    Iroh(Arm),
    Tcp,
}

const WAYS: [Way; 4] = [
    Way::Iroh(Arm::Channel),
    Way::Iroh(Arm::Hasty(HASTY)),
    Way::Iroh(Arm::Tonic),
    Way::Tcp,
];

/// What one kind of client went through.
struct Story {
    way: Way,
    report: Report,
}

impl Way {
    async fn service(self, peer: &Peer) -> Service {
        match self {
            Self::Iroh(arm) => Caller::new(arm, peer).await.service,
            Self::Tcp => {
                let channel = Channel::tcp(iroh::SecretKey::generate()).peer(peer.clone());
                let channel = channel.build().expect("valid");
                Service::new(tower::ServiceExt::<http::Request<_>>::map_err(
                    channel, status,
                ))
            }
        }
    }

    fn pace(self) -> Pace {
        match self {
            Self::Iroh(Arm::Hasty(_)) => Pace::calls(),
            _ => Pace::default(),
        }
    }
}

/// Cuts the link for so long under the traffic of each kind of client, and beneath one of each that is quiet meanwhile.
async fn through(network: Network, length: Duration) -> (Desk, Instant, Vec<Story>) {
    let link = network.link("client", "server");
    link.set(Conditions::wan(ROUND_TRIP));
    let (desk, peer) = dual::serve(network.host("server")).await;
    let mut parties = Vec::new();
    let mut clients = Vec::new();
    for way in WAYS {
        let service = way.service(&peer).await;
        let pace = way.pace();
        let mut traffic = Traffic::start(&format!("{way:?}"), &service, pace).await;
        traffic.goes_on(20, 10 * pace.streams as u64).await;
        parties.push((way, traffic));
        let mut client = EchoClient::new(way.service(&peer).await);
        let answer = client.echo(request(format!("quiet {way:?}"))).await;
        answer.expect("before the cut");
        clients.push((format!("{way:?}, quiet"), client));
        clients.push((format!("{way:?}, busy"), EchoClient::new(service)));
    }
    link.cut();
    sleep(length).await;
    link.restore();
    let restored = Instant::now();
    let mut calling = JoinSet::new();
    for (who, client) in clients {
        calling.spawn(async move {
            first_answer(&who, client).await;
            println!(
                "{who}, after {length:?}: answered after {:?}",
                restored.elapsed()
            );
        });
    }
    while let Some(answered) = calling.join_next().await {
        answered.expect("no panic");
    }
    let mut stories = Vec::new();
    for (_, traffic) in &mut parties {
        traffic.answers_to_what_began_after(restored).await;
    }
    for (way, traffic) in parties {
        let report = traffic.stop().await;
        println!(
            "{way:?} after {length:?}: first answer {:?}, to a new call {:?}; {} of {} calls failed; streams {:?}",
            report.first_answer(restored),
            report.first_fresh_answer(restored),
            report.failures(),
            report.calls.len(),
            report.talks,
        );
        stories.push(Story { way, report });
    }
    (desk, restored, stories)
}

/// Calls ten times a second until one is answered. The first may go onto a connection that is about to repeat, at its leisure, what the cut has lost.
async fn first_answer(who: &str, client: EchoClient<Service>) {
    let mut calls = JoinSet::new();
    let answered = async {
        loop {
            let mut client = client.clone();
            let call = request(format!("{who} {}", calls.len()));
            calls.spawn(async move { client.echo(call).await.is_ok() });
            if let Ok(Some(Ok(true))) = timeout(Duration::from_millis(100), calls.join_next()).await
            {
                return;
            }
        }
    };
    let answered = timeout(TARGET, answered).await;
    assert!(answered.is_ok(), "{who}: no answer in {TARGET:?}");
}

fn run(length: Duration) -> Result<(Desk, Instant, Vec<Story>), tower_iroh_lab::LabError> {
    let network = Network::new(["client", "server"])?;
    let case = through(network.clone(), length);
    Ok(network.host("client").block_on(case))
}

fn short(length: Duration) -> Outcome {
    let (desk, restored, stories) = run(length)?;
    for Story { way, report } in stories {
        match way {
            Way::Iroh(Arm::Hasty(_)) => {
                report.check(&desk, &[Code::DeadlineExceeded, Code::Unavailable])
            }
            // What was lost is sent again, and nobody notices more than the wait.
            _ => report.check_all_well(&desk),
        }
        if matches!(way, Way::Tcp) {
            // Its callers wait, one call after the other, for what the kernel repeats after up to as long as the cut was; other calls don't.
            continue;
        }
        for answer in [
            report.first_answer(restored),
            report.first_fresh_answer(restored),
        ] {
            assert!(
                answer.is_some_and(|after| after < TARGET),
                "{way:?}: {answer:?}"
            );
        }
    }
    Ok(())
}

/// QUIC gives the connection up meanwhile.
fn long() -> Outcome {
    let (desk, restored, stories) = run(Duration::from_secs(30))?;
    for Story { way, report } in stories {
        let codes: &[_] = match way {
            Way::Iroh(Arm::Hasty(_)) => &[Code::DeadlineExceeded, Code::Unavailable],
            _ => &[Code::Unavailable],
        };
        report.check(&desk, codes);
        let answer = report.first_fresh_answer(restored);
        assert!(
            answer.is_some_and(|after| after < TARGET),
            "{way:?}: {answer:?}"
        );
        for talk in &report.talks {
            assert!(talk.outcome.is_err(), "with its connection: {talk:?}");
        }
    }
    Ok(())
}
