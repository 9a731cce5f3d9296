//! docs/program.md has the program's real output, and docs/troubleshooting.md names tests that exist.
//!
//! `UPDATE_DOCS=1` writes the output of this run into docs/program.md.

use std::{fs, path::PathBuf};

use tokio_util::task::AbortOnDropHandle;

use crate::{
    proxies::{Backend, client, request},
    running::Running,
    support::{PATIENCE, program},
    top::measured,
};

fn page(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name)
}

/// The words of a command line whose quotes are single.
fn words(line: &str) -> Vec<String> {
    let quoted = |(number, part): (usize, &str)| match number % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    };
    line.split('\'').enumerate().flat_map(quoted).collect()
}

/// What differs from run to run, by its name.
fn normal(text: &str) -> String {
    // An id, whole or as the logs and `top` have it.
    let is_hex =
        |word: &str| matches!(word.len(), 10 | 64) && word.chars().all(|it| it.is_ascii_hexdigit());
    let word = |word: &str| {
        let bare = word.trim_end_matches([';', ',', ')']);
        let rest = &word[bare.len()..];
        let number = bare.strip_suffix("/s").unwrap_or(bare);
        let is_number =
            !number.is_empty() && number.chars().all(|it| it.is_ascii_digit() || it == '.');
        let bare = match bare {
            it if is_hex(it) => "ID",
            it if it.starts_with("endpoint") && it.len() > 40 => "TICKET",
            _ if is_number => "N",
            it => match it.rsplit_once(':') {
                Some((_, port)) if port.parse::<u16>().is_ok() => "ADDRESS",
                _ => it,
            },
        };
        format!("{bare}{rest}")
    };
    // Addresses of this machine, as many as it has.
    let lines = text.lines().filter(|line| !line.starts_with("address "));
    let lines = lines.map(|line| {
        line.split_whitespace()
            .map(word)
            .collect::<Vec<_>>()
            .join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Runs a command of the page, and returns all that it prints.
async fn output(line: &str, ticket: &str, backend: &str, metrics: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let line = line
        .replace("TICKET", ticket)
        .replace("127.0.0.1:50051", backend)
        .replace("127.0.0.1:9090", metrics);
    let args = words(&line);
    if args[0] == "expose" || args[0] == "gateway" {
        let mut running = Running::start(&args);
        if let Some(first) = running.first_line().await {
            running.kill().await;
            return first + "\n";
        }
        return running.all_it_said().await;
    }
    let output = program(&args).current_dir(folder.path()).output();
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .expect("in time")
        .expect("started");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8(text).expect("text")
}

#[tokio::test]
async fn the_page_has_the_programs_output() {
    let server = Backend::start().await;
    let backend = server.address();
    let (_exposed, ticket) = Running::expose(&[&backend, "--allow-all"]).await;
    // Somebody who calls all the time, for `top`.
    let (_measured, busy, metrics) = measured(&backend).await;
    let (_gateway, address) = Running::gateway(&[&busy]).await;
    let mut client = client(&address);
    client.echo(request(b"hello")).await.expect("answered");
    let _calling = AbortOnDropHandle::new(tokio::spawn(async move {
        while client.echo(request(b"hello")).await.is_ok() {}
    }));
    let page = page("program.md");
    let text = fs::read_to_string(&page).expect("the page");
    let mut parts = text.split("```console\n");
    let mut written = parts.next().expect("the beginning").to_owned();
    let mut runs = 0;
    for part in parts {
        let (block, rest) = part.split_once("```").expect("the block's end");
        written += "```console\n";
        let mut commands = block.split("$ tower-iroh ");
        assert_eq!(commands.next(), Some(""), "a block begins with a command");
        for command in commands {
            let (line, shown) = command.split_once('\n').expect("a line");
            let printed = output(line, &ticket, &backend, &metrics).await;
            let is_update = std::env::var_os("UPDATE_DOCS").is_some();
            if !is_update {
                assert_eq!(normal(shown), normal(&printed), "`tower-iroh {line}`");
            }
            written += &format!("$ tower-iroh {line}\n{printed}");
            runs += 1;
        }
        written = written + "```" + rest;
    }
    assert!(runs > 10, "{runs} commands");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&page, written).expect("written");
    }
}

#[test]
fn troubleshooting_names_tests_that_exist() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/program");
    let files = fs::read_dir(folder)
        .expect("the tests")
        .map(|file| file.expect("a file").path());
    let tests: String = files
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect();
    let text = fs::read_to_string(page("troubleshooting.md")).expect("the page");
    let mut rows = 0;
    for row in text.lines().filter(|line| line.ends_with("` |")) {
        let name = row.rsplit('`').nth(1).expect("a test");
        assert!(
            tests.contains(&format!("async fn {name}()")),
            "no test {name}"
        );
        rows += 1;
    }
    assert!(rows > 10, "{rows} rows");
}
