//! What a run leaves behind.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use serde::Serialize;
use tower_iroh_lab::LabError;

use crate::{
    arms,
    bed::Wire,
    busy::Busy,
    cli::Plan,
    fault::{Fault, with_causes},
    load::{Latency, Outcome},
    machine::Machine,
};

/// One arm in one case of a scenario.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cell {
    pub case: String,
    pub arm: String,
    /// Small calls with nothing beside them, where that was measured with the same session.
    pub alone: Option<Latency>,
    /// The calls that the case is about.
    pub latency: Option<Latency>,
    /// Bulk payload that arrived, Mbit/s.
    pub mbit: Option<f64>,
    /// Whatever else the scenario measures; times in milliseconds.
    pub values: BTreeMap<&'static str, f64>,
    pub wire: Wire,
    /// What calls failed with.
    pub errors: Vec<String>,
}

impl Cell {
    pub fn new(case: impl Into<String>, arm: &str, outcome: Outcome) -> Self {
        Self {
            case: case.into(),
            arm: arm.to_owned(),
            latency: outcome.latency,
            mbit: outcome.mbit,
            wire: outcome.wire,
            errors: outcome.errors,
            ..Self::default()
        }
    }

    pub fn p99(&self) -> Option<f64> {
        Some(self.latency.as_ref()?.p99)
    }
}

/// What a scenario found.
#[derive(Debug, Serialize)]
pub struct Section {
    pub name: &'static str,
    pub title: &'static str,
    pub cells: Vec<Cell>,
    pub seconds: f64,
    /// Share of the processors that were busy, on the whole machine, while it ran.
    pub busy: f64,
    /// What is broken, not slow.
    pub faults: Vec<String>,
    #[serde(skip)]
    pub text: Vec<String>,
    #[serde(skip)]
    pub tables: Vec<Table>,
    #[serde(skip)]
    pub charts: Vec<Chart>,
}

/// A table as it is shown.
#[derive(Clone, Debug)]
pub struct Table {
    pub caption: String,
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// Points in rows, on a logarithmic axis.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Without its ending.
    pub file: String,
    pub title: String,
    pub rows: Vec<(String, Vec<(&'static str, f64)>)>,
}

impl Section {
    pub fn cell(&self, case: &str, arm: &str) -> Option<&Cell> {
        let same = |cell: &&Cell| cell.case == case && cell.arm == arm;
        self.cells.iter().find(same)
    }

    /// On a link that loses nothing every call succeeds; what failed there is broken.
    pub fn must_succeed(&mut self, cells: &[Cell]) {
        for cell in cells {
            for error in &cell.errors {
                self.faults.push(format!(
                    "{}, {}, {}: {error}",
                    self.name, cell.case, cell.arm
                ));
            }
        }
    }

    pub fn table(&mut self, caption: impl Into<String>, header: &[&str], rows: Vec<Vec<String>>) {
        self.tables.push(Table {
            caption: caption.into(),
            header: header.iter().map(ToString::to_string).collect(),
            rows,
        });
    }
}

/// A run.
pub struct Record {
    pub plan: Plan,
    pub machine: Machine,
    /// How the arms encrypt.
    pub encryption: String,
    pub sections: Vec<Section>,
    pub seconds: f64,
}

impl Record {
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    pub fn faults(&self) -> Vec<&String> {
        let faults = self.sections.iter().flat_map(|section| &section.faults);
        faults.collect()
    }
}

/// Runs the plan. A scenario that breaks is a fault in its section, and the others still run.
pub fn run(plan: Plan) -> Record {
    let mut machine = Machine::look();
    machine.tonic_iroh_transport_versions.clear();
    let began = Instant::now();
    let mut sections = Vec::new();
    let encryption = match arms::cipher() {
        Ok(suite) => format!(
            "TCP: TLS 1.3 by rustls with ring, {suite}; iroh: QUIC with TLS 1.3 by rustls with ring"
        ),
        Err(error) => format!("unknown: {}", with_causes(&*error)),
    };
    for scenario in plan.scenarios.clone() {
        eprintln!("{:>6.0?} {}", rounded(began), scenario.name);
        let (since, busy) = (Instant::now(), Busy::begin());
        let mut section = Section {
            name: scenario.name,
            title: scenario.title,
            cells: Vec::new(),
            seconds: 0.0,
            busy: 0.0,
            faults: Vec::new(),
            text: Vec::new(),
            tables: Vec::new(),
            charts: Vec::new(),
        };
        // What was measured before must not be lost to a scenario that breaks.
        let result = catch_unwind(AssertUnwindSafe(|| (scenario.run)(&plan, &mut section)));
        let fault = match result {
            Ok(Ok(())) => None,
            // The quick form is to say whether it works, and on a machine with other things to do this does not.
            Ok(Err(fault)) if plan.quick && is_inexact(&fault) => {
                println!("skipped: {}: {fault}", scenario.name);
                None
            }
            Ok(Err(fault)) => Some(with_causes(&*fault)),
            Err(_) => Some("panicked; see above".to_owned()),
        };
        let fault = fault.map(|fault| format!("{}: {fault}", scenario.name));
        section.faults.extend(fault);
        section.seconds = since.elapsed().as_secs_f64();
        section.busy = busy.share();
        sections.push(section);
    }
    Record {
        plan,
        machine,
        encryption,
        sections,
        seconds: began.elapsed().as_secs_f64(),
    }
}

fn is_inexact(fault: &Fault) -> bool {
    matches!(fault.downcast_ref(), Some(LabError::Inexact { .. }))
}

fn rounded(since: Instant) -> Duration {
    Duration::from_secs(since.elapsed().as_secs())
}
