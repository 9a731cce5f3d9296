//! Connecting and the first call on the new connection.

use std::time::{Duration, Instant};

use tower_iroh::{Tuning, layers::Idempotent};
use tower_iroh_lab::Conditions;
use tower_iroh_proto::echo::echo_client::EchoClient;

use super::common::times;
use crate::{
    arms::{Kernel, LaneSet, Ours, Tcp, ours, tcp_connect},
    bed::{Bed, beds, side_by_side},
    cli::Plan,
    fault::Fault,
    load::{Latency, echo},
    record::{Cell, Chart, Section},
};

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Tcp,
    Iroh,
    /// With early data, QUIC's 0-RTT: the call is declared idempotent, and the server lists its method.
    Resumed,
}

impl Who {
    const ALL: [Self; 3] = [Self::Tcp, Self::Iroh, Self::Resumed];

    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP + TLS 1.3",
            Self::Iroh => "iroh",
            Self::Resumed => RESUMED,
        }
    }
}

/// What the target is about.
pub const RESUMED: &str = "iroh, early data";

pub fn run(plan: &Plan, section: &mut Section) -> Result<(), Fault> {
    section.text.push(
        "A new channel and one 64 B call on it, from before the first packet to the answer. Endpoints, certificates and keys are there; tonic has no \
         early data over TCP. With early data the call is declared idempotent and leaves with the first packets of a resumed connection; the first connection, \
         which has nothing to resume, is not counted. Nothing but the delay is on the link."
            .into(),
    );
    let times_each = plan.pick(40, 8);
    for ms in [0, 40, 100] {
        let conditions = match ms {
            0 => Conditions::default(),
            _ => Conditions {
                delay: Duration::from_millis(ms) / 2,
                ..Conditions::default()
            },
        };
        let case = case(ms);
        eprintln!("  {case}");
        // Without delay one after the other, for they would take the processor from each other.
        let beds = beds(
            if ms == 0 { 1 } else { Who::ALL.len() },
            conditions,
            plan.seed,
        )?;
        let cells = side_by_side(&beds, &Who::ALL, |bed, who| {
            let took = connections(bed, *who, times_each)?;
            Ok(Cell {
                case: case.clone(),
                arm: who.name().to_owned(),
                latency: Some(Latency::of(&took)),
                wire: bed.take_wire(),
                ..Cell::default()
            })
        })?;
        section.cells.extend(cells);
    }
    let rows = section.cells.iter().map(|cell| {
        let [p50, _, _, max] = times(cell.latency.as_ref());
        let rtt: f64 = cell.case.trim_end_matches(" ms").parse().unwrap_or(0.0);
        let p50_ms = cell
            .latency
            .as_ref()
            .map_or(f64::NAN, |latency| latency.p50);
        let trips = match rtt {
            rtt if rtt > 0.0 => format!("{:.2}", p50_ms / rtt),
            _ => String::new(),
        };
        let calls = cell.latency.as_ref().map_or(0, |latency| latency.calls);
        vec![
            cell.case.clone(),
            cell.arm.clone(),
            calls.to_string(),
            p50,
            max,
            trips,
        ]
    });
    let rows = rows.collect();
    section.table(
        "connect and first call: milliseconds",
        &[
            "round trip",
            "arm",
            "times",
            "p50",
            "max",
            "p50 in round trips",
        ],
        rows,
    );
    section.charts.push(Chart {
        file: "connect".into(),
        title: "connect and first call: ms".into(),
        rows: section
            .cells
            .iter()
            .filter_map(|cell| {
                let latency = cell.latency.as_ref()?;
                let points = vec![("p50", latency.p50), ("max", latency.max)];
                Some((format!("{}, {}", cell.case, cell.arm), points))
            })
            .collect(),
    });
    Ok(())
}

pub fn case(ms: u64) -> String {
    format!("{ms} ms")
}

/// How long each of so many connections took. The first, which finds everything cold, is not among them.
fn connections(bed: &Bed, who: Who, times: usize) -> Result<Vec<Duration>, Fault> {
    match who {
        Who::Tcp => {
            let control = Kernel::Bbr;
            let listener = Tcp {
                control,
                channels: 1,
            }
            .listen(bed)?;
            let endpoint = listener.endpoint.clone();
            let took = bed.client().block_on(async move {
                let mut took = Vec::new();
                for number in 0..=times as u64 {
                    let began = Instant::now();
                    let service = tcp_connect(endpoint.clone(), control).await?;
                    EchoClient::new(service).echo(echo(number)).await?;
                    took.push(began.elapsed());
                }
                Ok::<_, Fault>(took)
            });
            listener.listening.end();
            Ok(took?.split_off(1))
        }
        Who::Iroh | Who::Resumed => {
            let arm = Ours {
                tuning: Tuning::auto(),
                lanes: LaneSet::Standard.lanes(),
                early_data: who == Who::Resumed,
            };
            let server = arm.serve(bed)?;
            let client = ours::bind(bed.client(), &arm.tuning)?;
            let mut took = Vec::new();
            for number in 0..=times as u64 {
                let channel = arm.channel(&client, &server.peer)?;
                let once = bed.client().block_on(async move {
                    let began = Instant::now();
                    let mut request = tonic::Request::new(echo(number));
                    if who == Who::Resumed {
                        request.extensions_mut().insert(Idempotent);
                    }
                    EchoClient::new(channel.clone()).echo(request).await?;
                    let took = began.elapsed();
                    channel.close();
                    Ok::<_, Fault>(took)
                })?;
                took.push(once);
            }
            bed.client().block_on(async move { client.close().await });
            server.end(bed);
            Ok(took.split_off(1))
        }
    }
}
