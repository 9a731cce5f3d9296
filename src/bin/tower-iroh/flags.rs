//! grpcurl's flags have one dash or two, and a switch may have a value; clap reads two dashes, and no value.

use std::{collections::BTreeMap, ffi::OsString};

use clap::{ArgAction, Command};

/// Gives each long flag of the verb its second dash where it has one: `-plaintext` becomes `--plaintext`, and so does `-plaintext=true`. A switch with `=false` is
/// left out.
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
    let long: BTreeMap<&str, bool> = command
        .find_subcommand(&args[verb])
        .into_iter()
        .flat_map(Command::get_arguments)
        .filter_map(|arg| {
            Some((
                arg.get_long()?,
                matches!(arg.get_action(), ArgAction::SetTrue),
            ))
        })
        .filter(|(name, _)| name.len() > 1)
        .collect();
    let mut flags = args.split_off(verb + 1);
    let rest = flags.iter().position(|arg| arg == "--");
    let rest = flags.split_off(rest.unwrap_or(flags.len()));
    for arg in flags {
        let flag = arg.to_str().and_then(|text| text.strip_prefix('-'));
        let Some(flag) = flag.map(|flag| flag.strip_prefix('-').unwrap_or(flag)) else {
            args.push(arg);
            continue;
        };
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        match (long.get(name), value) {
            (None, _) => args.push(arg),
            (Some(true), "true") => args.push(format!("--{name}").into()),
            // The last one counts.
            (Some(true), "false") => {
                let switch = format!("--{name}");
                args.retain(|earlier| *earlier != *switch);
            }
            _ => args.push(format!("--{flag}").into()),
        }
    }
    args.extend(rest);
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
            .arg(Arg::new("unix").long("unix").action(ArgAction::SetTrue))
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
    fn a_switch_may_have_a_value() {
        let read = read(&[
            "tower-iroh",
            "call",
            "-unix",
            "--unix=false",
            "-unix=no",
            "-unix=true",
        ]);
        assert_eq!(read[2..], ["--unix=no", "--unix"]);
    }

    #[test]
    fn what_is_no_flag_of_the_verb_stays() {
        let args = ["tower-iroh", "-max-time", "call", "-dx", "--", "-max-time"];
        assert_eq!(read(&args), args);
    }
}
