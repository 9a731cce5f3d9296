//! The link is cut in the middle of calls and of a stream: how soon after its return do calls succeed, and does anything arrive twice.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tower_iroh::Urgency;
use tower_iroh_lab::Conditions;
use tower_iroh_proto::testing::{
    Payload, ResponseParameters, SimpleRequest, StreamingOutputRequest,
    test_service_client::TestServiceClient,
};

use super::common::ms;
use crate::{
    arms::{Arm, Kernel, Service, Session, iroh, tcp},
    bed::{Bed, beds, side_by_side},
    cli::Plan,
    fault::Fault,
    record::{Cell, Chart, Section},
};

const PER_SECOND: u32 = 200;
/// How long the link is cut, in seconds.
pub const CUTS: [u64; 4] = [1, 5, 30, 120];
/// Calls and messages before the cut.
const BEFORE: Duration = Duration::from_secs(2);
/// How long after the return is looked for a success.
const AFTER: Duration = Duration::from_secs(45);
/// What a call is given: as a careful user does. Without it a call on a dead connection waits for as long as the kernel does.
const DEADLINE: Duration = Duration::from_secs(5);

/// What one call came to.
#[derive(Clone, Copy, Debug)]
struct Call {
    began: Instant,
    ended: Instant,
    ok: bool,
}

/// What a stream came to.
#[derive(Clone, Debug, Default)]
struct Messages {
    came: u64,
    /// Messages that were not the next one.
    wrong: u64,
    /// When the first came after the cut, if the stream lived.
    arrivals: Vec<Instant>,
    ended_with: Option<String>,
}

pub fn case(seconds: u64) -> String {
    format!("{seconds} s")
}

pub fn run(plan: &Plan, section: &mut Section) -> Result<(), Fault> {
    section.text.push(format!(
        "Calls at {PER_SECOND}/s, each with a deadline of {} s, and a server stream with a message every 20 ms, over 40 ms there and back; the link passes nothing for so \
         long and then everything again. First success: from the link's return to the first answer, of a call that began before the \
         return or after it. The server counts every call's number.",
        DEADLINE.as_secs()
    ));
    let cuts = plan.pick(&CUTS[..], &CUTS[..2]);
    let mut arms = vec![tcp(Kernel::Bbr, 1), iroh()];
    if !plan.quick {
        arms.insert(1, tcp(Kernel::Cubic, 1));
    }
    // All at once: a cut leaves the processor idle.
    let cases: Vec<_> = cuts
        .iter()
        .flat_map(|cut| arms.iter().map(|arm| (*cut, arm.clone())))
        .collect();
    let conditions = Conditions {
        delay: Duration::from_millis(20),
        ..Conditions::default()
    };
    let beds = beds(cases.len(), conditions, plan.seed)?;
    let cells = side_by_side(&beds, &cases, |bed, (cut, arm)| cut_once(bed, *cut, arm))?;
    for cell in &cells {
        for what in ["delivered_twice", "stream_wrong"] {
            if cell.values.get(what).is_some_and(|count| *count > 0.0) {
                section
                    .faults
                    .push(format!("partition, {}, {}: {what}", cell.case, cell.arm));
            }
        }
    }
    let shown = |cell: &Cell, key| match cell.values.get(key) {
        Some(value) => ms(*value),
        None => "-".into(),
    };
    let count = |cell: &Cell, key| {
        let value = cell.values.get(key).copied().unwrap_or(f64::NAN);
        format!("{value:.0}")
    };
    let rows = cells.iter().map(|cell| {
        vec![
            cell.case.clone(),
            cell.arm.clone(),
            shown(cell, "first_success"),
            shown(cell, "first_success_of_new"),
            shown(cell, "stream_goes_on"),
            count(cell, "failed"),
            count(cell, "calls"),
            count(cell, "delivered_twice"),
        ]
    });
    let rows = rows.collect();
    section.table(
        "after the link's return: milliseconds",
        &[
            "cut for",
            "arm",
            "first success",
            "of a call that began after the return",
            "the stream goes on",
            "calls that failed",
            "of",
            "delivered twice",
        ],
        rows,
    );
    section.charts.push(Chart {
        file: "partition".into(),
        title: "from the link's return to the first success: ms".into(),
        rows: cells
            .iter()
            .filter_map(|cell| {
                let first = *cell.values.get("first_success")?;
                Some((
                    format!("{}, {}", cell.case, cell.arm),
                    vec![("first success", first)],
                ))
            })
            .collect(),
    });
    section.cells = cells;
    Ok(())
}

fn cut_once(bed: &Bed, seconds: u64, arm: &Arm) -> Result<Cell, Fault> {
    eprintln!("  {}: {}", case(seconds), arm.name);
    let session = Session::start(bed, arm)?;
    let stop = Arc::new(AtomicBool::new(false));
    let done: Arc<Mutex<Vec<Call>>> = Arc::default();
    let calls = bed
        .client()
        .spawn(calls(session.bulk.clone(), stop.clone(), done.clone()));
    let messages: Arc<Mutex<Messages>> = Arc::default();
    let stream = bed
        .client()
        .spawn(stream(session.bulk.clone(), messages.clone()));
    let lock = |messages: &Arc<Mutex<Messages>>| {
        messages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    };

    bed.wait(BEFORE);
    bed.link().cut();
    bed.wait(Duration::from_secs(seconds));
    bed.link().restore();
    let returned = Instant::now();
    let succeeded = |after: Option<Instant>| {
        let done = done.lock().unwrap_or_else(PoisonError::into_inner);
        let good = done.iter().filter(|call| call.ok && call.ended >= returned);
        let good = good.filter(|call| after.is_none_or(|after| call.began >= after));
        good.map(|call| call.ended).min()
    };
    // Both kinds of success, or a bound.
    while succeeded(Some(returned)).is_none() && returned.elapsed() < AFTER {
        bed.wait(Duration::from_millis(20));
    }
    // A stream that lives has its next message with the first answers; one that does not has said so or never will.
    let goes_on = |messages: &Messages| {
        let next = messages.arrivals.iter().find(|at| **at >= returned);
        next.copied()
    };
    let patience = Instant::now() + Duration::from_secs(2);
    while goes_on(&lock(&messages)).is_none() && Instant::now() < patience {
        bed.wait(Duration::from_millis(20));
    }
    stop.store(true, Ordering::Relaxed);
    bed.client().block_on(async move {
        // Each ends within its deadline.
        let _ = timeout(DEADLINE * 2, calls).await;
    });
    stream.abort();

    let after = |at: Option<Instant>| at.map(|at| (at - returned).as_secs_f64() * 1000.0);
    let mut cell = Cell {
        case: case(seconds),
        arm: arm.name.clone(),
        wire: bed.take_wire(),
        ..Cell::default()
    };
    let messages = lock(&messages);
    let (handled, twice) = session.seen.calls();
    let values = [
        ("first_success", after(succeeded(None))),
        ("first_success_of_new", after(succeeded(Some(returned)))),
        ("stream_goes_on", after(goes_on(&messages))),
        ("stream_messages", Some(messages.came as f64)),
        ("stream_wrong", Some(messages.wrong as f64)),
        ("handled", Some(handled as f64)),
        ("delivered_twice", Some(twice as f64)),
    ];
    cell.values.extend(
        values
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    let done = done.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let failed = done.iter().filter(|call| !call.ok).count();
    cell.values.insert("calls", done.len() as f64);
    cell.values.insert("failed", failed as f64);
    session.end(bed);
    Ok(cell)
}

/// Calls with numbers, at a steady pace, until it is told to stop.
async fn calls(
    client: TestServiceClient<Service>,
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Vec<Call>>>,
) {
    let interval = Duration::from_secs(1) / PER_SECOND;
    let begin = Instant::now();
    let mut calls = JoinSet::new();
    for number in 0u64.. {
        sleep_until(begin + interval * number as u32).await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (mut client, done) = (client.clone(), done.clone());
        calls.spawn(async move {
            let began = Instant::now();
            let mut request = tonic::Request::new(SimpleRequest {
                payload: Some(Payload {
                    body: number.to_be_bytes().to_vec().into(),
                }),
                ..SimpleRequest::default()
            });
            request.set_timeout(DEADLINE);
            request.extensions_mut().insert(Urgency::CONTROL);
            // tonic's server answers nothing over a dead link, and its channel keeps no clock of its own for a call that waits.
            let answer = timeout(DEADLINE, client.unary_call(request)).await;
            let call = Call {
                began,
                ended: Instant::now(),
                ok: matches!(answer, Ok(Ok(_))),
            };
            done.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(call);
        });
        while calls.try_join_next().is_some() {}
    }
    calls.join_all().await;
}

/// A stream that is longer than the measurement.
async fn stream(mut client: TestServiceClient<Service>, messages: Arc<Mutex<Messages>>) {
    let every = ResponseParameters {
        size: 64,
        interval_ms: 20,
    };
    let request = StreamingOutputRequest {
        responses: vec![every; 12_000],
        ..StreamingOutputRequest::default()
    };
    let with = |change: &mut dyn FnMut(&mut Messages)| {
        change(&mut messages.lock().unwrap_or_else(PoisonError::into_inner));
    };
    let mut stream = match client.streaming_output_call(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return with(&mut |m| m.ended_with = Some(status.to_string())),
    };
    loop {
        match stream.message().await {
            Ok(Some(message)) => with(&mut |m| {
                m.wrong += u64::from(message.sequence != m.came);
                m.came += 1;
                m.arrivals.push(Instant::now());
            }),
            Ok(None) => return with(&mut |m| m.ended_with = Some("OK".into())),
            Err(status) => return with(&mut |m| m.ended_with = Some(status.to_string())),
        }
    }
}
