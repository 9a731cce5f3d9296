//! `tower-iroh completions` and `tower-iroh man`: for the shell and for man.

use std::io;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::failure::Failure;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tower-iroh completions bash > ~/.local/share/bash-completion/completions/tower-iroh"
)]
pub(crate) struct Completions {
    shell: Shell,
}

/// Print the manual page
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tower-iroh man | man -l -")]
pub(crate) struct Man {}

pub(crate) fn completions(options: Completions, mut command: Command) -> Result<(), Failure> {
    let name = command.get_name().to_owned();
    let mut page = Vec::new();
    clap_complete::generate(options.shell, &mut command, name, &mut page);
    write(&page)
}

/// The program's page, and after it a section for each verb.
pub(crate) fn man(mut command: Command) -> Result<(), Failure> {
    // Gives each verb the name `tower-iroh-VERB`.
    command.build();
    let verbs: Vec<_> = command.get_subcommands().cloned().collect();
    let mut page = Vec::new();
    for command in std::iter::once(command).chain(verbs) {
        let rendered = clap_mangen::Man::new(command).render(&mut page);
        rendered.map_err(Failure::failed)?;
    }
    write(&page)
}

fn write(page: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    io::Write::write_all(&mut stdout, page)
        .map_err(|error| Failure::failed(format!("standard output: {error}")))
}
