//! grpcurl's flags have one dash or two; clap reads two.

use std::{collections::BTreeSet, ffi::OsString};

use clap::Command;

/// Gives each long flag of the verb its second dash where it has one: `-plaintext` becomes `--plaintext`.
pub(crate) fn with_two_dashes(
    command: &mut Command,
    args: impl IntoIterator<Item = OsString>,
) -> Vec<OsString> {
    command.build();
    let mut args: Vec<_> = args.into_iter().collect();
    let is_verb = |arg: &OsString| command.find_subcommand(arg).is_some();
    let Some(verb) = args.iter().skip(1).position(is_verb).map(|at| at + 1) else {
        return args;
    };
    let long: BTreeSet<&str> = command
        .find_subcommand(&args[verb])
        .into_iter()
        .flat_map(Command::get_arguments)
        .filter_map(|arg| arg.get_long())
        .filter(|name| name.len() > 1)
        .collect();
    for arg in &mut args[verb + 1..] {
        if arg == "--" {
            break;
        }
        let Some(text) = arg.to_str() else { continue };
        let Some(flag) = text.strip_prefix('-').filter(|rest| !rest.starts_with('-')) else {
            continue;
        };
        let name = flag.split('=').next().unwrap_or(flag);
        if long.contains(name) {
            *arg = format!("--{flag}").into();
        }
    }
    args
}

/// Whether `--json` is among the words of a command line that clap cannot read.
pub(crate) fn ask_for_json(args: &[OsString]) -> bool {
    let mut flags = args.iter().skip(1).take_while(|arg| *arg != "--");
    flags.any(|arg| arg == "--json" || arg == "-json")
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn read(args: &[&str]) -> Vec<String> {
        let call = Command::new("call")
            .arg(Arg::new("max-time").long("max-time"))
            .arg(Arg::new("data").short('d'));
        let mut command = Command::new("tower-iroh").subcommand(call);
        with_two_dashes(&mut command, args.iter().map(OsString::from))
            .into_iter()
            .map(|arg| arg.into_string().expect("text"))
            .collect()
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        let read = read(&[
            "tower-iroh",
            "call",
            "-max-time=5",
            "-max-time",
            "5",
            "-d",
            "-1",
        ]);
        assert_eq!(read[2..], ["--max-time=5", "--max-time", "5", "-d", "-1"]);
    }

    #[test]
    fn what_is_no_flag_of_the_verb_stays() {
        let args = ["tower-iroh", "-max-time", "call", "-dx", "--", "-max-time"];
        assert_eq!(read(&args), args);
    }
}
