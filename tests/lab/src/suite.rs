use std::{env, process::ExitCode};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::enter;

/// One test in the lab.
pub struct Case {
    name: String,
    needs_lab: bool,
    needs: Vec<&'static str>,
    missing: Option<String>,
    run: Box<dyn FnOnce() -> Result<(), Failed> + Send>,
}

/// What a case ends with: `?` on any error fails it.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

impl Case {
    /// A case that makes hosts. Where hosts cannot be made, the case is ignored.
    pub fn new(name: impl Into<String>, run: impl FnOnce() -> Outcome + Send + 'static) -> Self {
        Self {
            name: name.into(),
            needs_lab: true,
            needs: Vec::new(),
            missing: None,
            run: Box::new(move || run().map_err(|error| Failed::from(with_causes(&*error)))),
        }
    }

    /// A case that needs no privilege.
    pub fn anywhere(
        name: impl Into<String>,
        run: impl FnOnce() -> Outcome + Send + 'static,
    ) -> Self {
        Self {
            needs_lab: false,
            ..Self::new(name, run)
        }
    }

    /// The case runs this program. Where the program is not in `PATH`, the case is ignored.
    #[must_use]
    pub fn needs(mut self, program: &'static str) -> Self {
        self.needs.push(program);
        self
    }

    /// The case needs something else, and this says why it is not there. With a reason the case is ignored.
    #[must_use]
    pub fn unless(mut self, missing: Option<String>) -> Self {
        self.missing = missing;
        self
    }

    /// Why the case cannot run here.
    fn missing(&self, lab: Option<&str>) -> Option<String> {
        if let Some(why) = lab.filter(|_| self.needs_lab) {
            return Some(why.to_owned());
        }
        if self.missing.is_some() {
            return self.missing.clone();
        }
        let program = self.needs.iter().find(|program| !is_in_path(program))?;
        Some(needs(program))
    }

    /// The case as a test. An ignored one says why beside its name.
    fn trial(self, missing: Option<String>, flagged: bool) -> Trial {
        match missing {
            Some(why) if !flagged => {
                Trial::ignorable_test(self.name, || Ok(Completion::ignored_with(why)))
            }
            missing => Trial::test(self.name, self.run).with_ignored_flag(missing.is_some()),
        }
    }
}

pub(crate) fn needs(program: &str) -> String {
    format!("needs `{program}`, which is not in PATH; tests/lab/install installs it")
}

pub(crate) fn is_in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Set to `off`, the lab can't be entered: to see what is skipped then.
const SWITCH: &str = "TOWER_IROH_LAB";

/// Runs the cases one after the other, with the usual arguments of a test binary. Two cases at once would disturb each other's times.
///
/// The process enters the lab first, if a case needs it. Where that fails, or `TOWER_IROH_LAB=off` is in the environment, the cases that need
/// the lab are ignored. Each ignored case is reported by name with the reason.
pub fn suite(cases: impl IntoIterator<Item = Case>) -> ExitCode {
    run(cases, Some(1))
}

/// As [`suite`], and several cases at a time: for those that compare no times.
pub fn side_by_side(cases: impl IntoIterator<Item = Case>) -> ExitCode {
    run(cases, None)
}

fn run(cases: impl IntoIterator<Item = Case>, threads: Option<usize>) -> ExitCode {
    let cases: Vec<_> = cases.into_iter().collect();
    let lab = match env::var(SWITCH) {
        Ok(switch) if switch == "off" => Some(format!("{SWITCH} is off")),
        _ if !cases.iter().any(|case| case.needs_lab) => None,
        _ => enter().err().map(|error| with_causes(&error)),
    };
    let mut arguments = Arguments::from_args();
    if threads.is_some() {
        arguments.test_threads = threads;
    }
    // A test that decides while it runs gives a reason, but a list of the ignored tests (cargo-nextest asks for one) has only those with the flag.
    let flagged = arguments.list || arguments.ignored || arguments.include_ignored;
    let trials = cases
        .into_iter()
        .map(|case| {
            let missing = case.missing(lab.as_deref());
            case.trial(missing, flagged)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
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
