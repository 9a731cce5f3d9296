use std::process::ExitCode;

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};

use crate::enter;

/// One test in the lab.
pub struct Case {
    name: &'static str,
    needs_lab: bool,
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
}

/// Runs the cases one after the other (two at once would disturb each other's times), taking the usual arguments of a test binary.
///
/// The lab is entered first. Where that fails, the cases that need it are reported as ignored, and why is printed.
pub fn suite(cases: impl IntoIterator<Item = Case>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let lab = enter();
    if let Err(error) = &lab {
        eprintln!(
            "skipped, by name, what needs hosts of its own: {}",
            with_causes(error)
        );
    }
    let trials = cases
        .into_iter()
        .map(|case| {
            let skipped = case.needs_lab && lab.is_err();
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
