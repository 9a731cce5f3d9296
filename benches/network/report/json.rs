//! Everything as JSON.

use serde::Serialize;

use crate::{
    fault::Fault,
    machine::Machine,
    record::{Record, Section},
    targets::Verdict,
};

#[derive(Serialize)]
struct Document<'a> {
    machine: &'a Machine,
    encryption: &'a str,
    seed: u64,
    quick: bool,
    seconds: f64,
    sections: &'a [Section],
    targets: &'a [Verdict],
}

pub fn text(record: &Record, targets: &[Verdict]) -> Result<String, Fault> {
    Ok(serde_json::to_string(&Document {
        machine: &record.machine,
        encryption: &record.encryption,
        seed: record.plan.seed,
        quick: record.plan.quick,
        seconds: record.seconds,
        sections: &record.sections,
        targets,
    })?)
}
