//! The link is cut for a while, in the middle of calls and streams.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::Code;
use tower_iroh_lab::{Case, Conditions, Network, Outcome};

use crate::{
    place::{Arm, Caller, Server},
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

const ARMS: [Arm; 3] = [Arm::Channel, Arm::Hasty(HASTY), Arm::Tonic];

/// What one kind of client went through.
struct Story {
    arm: Arm,
    report: Report,
}

/// Cuts the link for so long under the traffic of each kind of client.
async fn through(network: Network, length: Duration) -> (Server, Instant, Vec<Story>) {
    let link = network.link("client", "server");
    link.set(Conditions::wan(ROUND_TRIP));
    let (server, peer) = Server::on(network.host("server")).await;
    let mut parties = Vec::new();
    for arm in ARMS {
        let caller = Caller::new(arm, &peer).await;
        let pace = match arm {
            Arm::Hasty(_) => Pace::calls(),
            Arm::Channel | Arm::Tonic => Pace::default(),
        };
        let mut traffic = Traffic::start(&format!("{arm:?}"), &caller, pace).await;
        traffic.goes_on(20, 10 * pace.streams as u64).await;
        parties.push((arm, caller, traffic));
    }
    link.cut();
    sleep(length).await;
    link.restore();
    let restored = Instant::now();
    let mut stories = Vec::new();
    for (_, _, traffic) in &mut parties {
        traffic.answers_to_what_began_after(restored).await;
    }
    for (arm, _, traffic) in parties {
        let report = traffic.stop().await;
        println!(
            "{arm:?} after {length:?}: first answer {:?}, to a new call {:?}; {} of {} calls failed; streams {:?}",
            report.first_answer(restored),
            report.first_fresh_answer(restored),
            report.failures(),
            report.calls.len(),
            report.talks,
        );
        stories.push(Story { arm, report });
    }
    (server, restored, stories)
}

fn run(length: Duration) -> Result<(Server, Instant, Vec<Story>), tower_iroh_lab::LabError> {
    let network = Network::new(["client", "server"])?;
    let case = through(network.clone(), length);
    Ok(network.host("client").block_on(case))
}

fn short(length: Duration) -> Outcome {
    let (server, restored, stories) = run(length)?;
    for Story { arm, report } in stories {
        match arm {
            Arm::Hasty(_) => {
                report.check(&server.desk, &[Code::DeadlineExceeded, Code::Unavailable])
            }
            // QUIC sends again what was lost, and nobody notices more than the wait.
            Arm::Channel | Arm::Tonic => report.check_all_well(&server.desk),
        }
        for answer in [
            report.first_answer(restored),
            report.first_fresh_answer(restored),
        ] {
            assert!(
                answer.is_some_and(|after| after < TARGET),
                "{arm:?}: {answer:?}"
            );
        }
    }
    Ok(())
}

/// QUIC gives the connection up meanwhile.
fn long() -> Outcome {
    let (server, restored, stories) = run(Duration::from_secs(30))?;
    for Story { arm, report } in stories {
        let codes: &[_] = match arm {
            Arm::Hasty(_) => &[Code::DeadlineExceeded, Code::Unavailable],
            Arm::Channel | Arm::Tonic => &[Code::Unavailable],
        };
        report.check(&server.desk, codes);
        let answer = report.first_fresh_answer(restored);
        assert!(
            answer.is_some_and(|after| after < TARGET),
            "{arm:?}: {answer:?}"
        );
        for talk in &report.talks {
            assert!(talk.outcome.is_err(), "with its connection: {talk:?}");
        }
    }
    Ok(())
}
