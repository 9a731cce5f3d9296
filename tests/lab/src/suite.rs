use std::process::ExitCode;

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};

use crate::enter;

/// One test in the lab.
pub struct Case {
    name: &'static str,
    needs_lab: bool,
    needs: Option<&'static str>,
    run: Box<dyn FnOnce() -> Result<(), Failed> + Send>,
}

/// What a case ends with: `?` on any error fails it.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

impl Case {
    /// A case that makes hosts. Where that is not possible it is skipped, by name.
    pub fn new(name: &'static str, run: fn() -> Outcome) -> Self {
        Self {
            name,
            needs_lab: true,
            needs: None,
            run: Box::new(move || run().map_err(|error| Failed::from(with_causes(&*error)))),
        }
    }

    /// A case that needs no privilege.
    pub fn anywhere(name: &'static str, run: fn() -> Outcome) -> Self {
        Self {
            needs_lab: false,
            ..Self::new(name, run)
        }
    }

    /// The same, skipped also where this program is missing.
    #[must_use]
    pub fn needs(mut self, program: &'static str) -> Self {
        self.needs = Some(program);
        self
    }

    /// Why it can't be run here.
    fn missing(&self, lab: Option<&str>) -> Option<String> {
        if let Some(why) = lab.filter(|_| self.needs_lab) {
            return Some(why.to_owned());
        }
        let program = self.needs?;
        let there = std::env::split_paths(&std::env::var_os("PATH")?)
            .any(|directory| directory.join(program).is_file());
        (!there).then(|| format!("the program `{program}` is missing (tests/lab/install)"))
    }
}

/// Set to `off`, the lab can't be entered: to see what is skipped then.
const SWITCH: &str = "TOWER_IROH_LAB";

/// Runs the cases one after the other (two at once would disturb each other's times), taking the usual arguments of a test binary.
///
/// The lab is entered first. Where that fails, or `TOWER_IROH_LAB=off` is in the environment, the cases that need it are reported as
/// ignored, and why is printed.
pub fn suite(cases: impl IntoIterator<Item = Case>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let lab = match std::env::var(SWITCH) {
        Ok(switch) if switch == "off" => Some(format!("{SWITCH} is off")),
        _ => enter().err().map(|error| with_causes(&error)),
    };
    let mut said = Vec::new();
    let trials = cases
        .into_iter()
        .map(|case| {
            let missing = case.missing(lab.as_deref());
            let skipped = missing.is_some();
            // Once for all whom it concerns, and not into the list of the cases.
            if let Some(why) = missing.filter(|why| !said.contains(why)) {
                eprintln!("skipped, by name, what is ignored below: {why}");
                said.push(why);
            }
            Trial::test(case.name, case.run).with_ignored_flag(skipped)
        })
        .collect();
    let conclusion: Conclusion = libtest_mimic::run(&arguments, trials);
    conclusion.exit_code()
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}
