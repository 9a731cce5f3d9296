//! What is written as a list or a table.

use super::{
    super::{
        nearest::nearest,
        value::{Found, Refusal, quote},
        values::RaftTransport,
    },
    Form, MILLISECONDS, Time, Word,
};

/// Names of groups. Whether they are known is asked when all groups are.
pub(in crate::config) struct Names;

impl Form<Vec<String>> for Names {
    fn read(found: Found<'_>) -> Result<Vec<String>, Refusal> {
        const ACCEPTED: &str = "a list of names of groups, such as [\"health\"], is accepted";
        let mut names = Vec::new();
        for name in found.list(ACCEPTED)? {
            names.push(name.string().map_err(|_| name.refuse(ACCEPTED))?.to_owned());
        }
        Ok(names)
    }

    fn show(value: &Vec<String>) -> Option<String> {
        let names: Vec<_> = value.iter().map(|name| quote(name)).collect();
        Some(format!("[{}]", names.join(", ")))
    }
}

/// A word, or `{ adaptive = { latency_threshold_ms = 50.0 } }`.
pub(in crate::config) struct Raft;

/// A minute: what is slower than that is not a transport for Raft.
type Threshold = Time<MILLISECONDS, 60_000>;

impl Form<RaftTransport> for Raft {
    fn read(found: Found<'_>) -> Result<RaftTransport, Refusal> {
        const ACCEPTED: &str = "{ adaptive = { latency_threshold_ms = 50.0 } } is accepted, or one of the words \
            \"always_grpc\", \"grpc\", \"always_iroh\", \"iroh\", \"adaptive\"";
        let Some(table) = found.value.get_ref().as_table() else {
            return Word::read(found);
        };
        let text = found.text;
        let within = |table: &'_ toml::de::DeTable<'_>, key| {
            let known = |name: &str| name == key;
            table
                .iter()
                .find(|(name, _)| !known(name.get_ref()))
                .map(|(name, _)| Refusal {
                    at: name.span(),
                    found: format!("has no key {}", quote(name.get_ref())),
                    accepted: ACCEPTED.to_owned(),
                    nearest: nearest(name.get_ref(), [key]).map(str::to_owned),
                })
        };
        if let Some(refusal) = within(table, "adaptive") {
            return Err(refusal);
        }
        let Some(value) = table.get("adaptive") else {
            return Err(found.refuse(ACCEPTED));
        };
        let found = Found { text, value };
        let Some(table) = value.get_ref().as_table() else {
            return Err(found.refuse(ACCEPTED));
        };
        if let Some(refusal) = within(table, "latency_threshold_ms") {
            return Err(refusal);
        }
        let latency_threshold = match table.get("latency_threshold_ms") {
            None => RaftTransport::LATENCY_THRESHOLD,
            Some(value) => {
                let found = Found { text, value };
                let threshold = Threshold::read(found)?;
                Threshold::check(&threshold).map_err(|accepted| found.refuse(accepted))?;
                threshold
            }
        };
        Ok(RaftTransport::Adaptive { latency_threshold })
    }

    fn show(value: &RaftTransport) -> Option<String> {
        match value {
            RaftTransport::Adaptive { latency_threshold } => {
                let threshold = Threshold::show(latency_threshold)?;
                Some(format!(
                    "{{ adaptive = {{ latency_threshold_ms = {threshold} }} }}"
                ))
            }
            word => Word::show(word),
        }
    }

    fn check(value: &RaftTransport) -> Result<(), String> {
        match value {
            RaftTransport::Adaptive { latency_threshold } => Threshold::check(latency_threshold),
            _ => Ok(()),
        }
    }
}

/// The stages of a rollout: percentages that rise.
pub(in crate::config) struct Stages;

impl Stages {
    const ACCEPTED: &'static str = "a list of 1 to 20 percentages that rise, above 0 and at most 100, in steps of 0.01, \
        such as [5, 25, 50, 100], is accepted";
}

impl Form<Vec<f64>> for Stages {
    fn read(found: Found<'_>) -> Result<Vec<f64>, Refusal> {
        let mut stages = Vec::new();
        for stage in found.list(Self::ACCEPTED)? {
            stages.push(stage.number(Self::ACCEPTED)?);
        }
        Ok(stages)
    }

    fn show(value: &Vec<f64>) -> Option<String> {
        let stages: Vec<_> = value.iter().map(f64::to_string).collect();
        Some(format!("[{}]", stages.join(", ")))
    }

    fn check(value: &Vec<f64>) -> Result<(), String> {
        let is_share = |stage: &f64| {
            let basis_points = stage * 100.0;
            *stage > 0.0 && *stage <= 100.0 && (basis_points - basis_points.round()).abs() < 1e-6
        };
        let rises = value.windows(2).all(|pair| pair[0] < pair[1]);
        match (1..=20).contains(&value.len()) && rises && value.iter().all(is_share) {
            true => Ok(()),
            false => Err(Self::ACCEPTED.to_owned()),
        }
    }
}
