//! Every example, run as a program.
//!
//! The binaries are those that `cargo test --workspace` builds beside the tests; `cargo test --test examples` alone builds
//! none and would find old ones or nothing.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs,
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// What each example may take; they take a second or two where nothing else keeps the machine busy.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn demo_keeps_its_promises_and_prints_plain_text_in_a_pipe() {
    let output = run("demo", ["--seconds", "1", "--callers", "4"]).await;
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    // iroh's errors go to stderr too: an endpoint that is dropped instead of closed would be there.
    assert_eq!(stderr, "");
    assert!(!stdout.contains('\x1b'), "{stdout:?}");
    for promised in [
        "ticket",
        "bidi streaming",
        "tonic's Channel",
        "path and RTT",
        "breaker open",
        "not sent: the circuit breaker",
        "6 notes",
        "server started again",
        "the server saw, each once",
        "breaker closed again",
        "p99",
        "4 callers, after",
        "Everything that this demo promises has happened.",
    ] {
        assert!(stdout.contains(promised), "no {promised:?} in\n{stdout}");
    }
}

#[tokio::test]
async fn demo_explains_itself_and_refuses_no_time_at_all() {
    let help = run("demo", ["--help"]).await;
    assert!(help.status.success());
    assert!(texts(&help).0.contains("--seconds <N>"));

    let refused = run("demo", ["--seconds", "0"]).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(texts(&refused).1.contains("1..=3600"));
}

#[tokio::test]
async fn soak_keeps_its_accounts_and_tells_its_seed() {
    let output = run(
        "soak",
        ["--minutes", "0.1", "--seed", "7", "--callers", "6"],
    )
    .await;
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert_eq!(stderr, "");
    assert!(stdout.starts_with("seed 7\n"), "{stdout}");
    for promised in [
        "at rest after the warm-up",
        "all answer again",
        "not judged",
        "calls by how they ended",
        "executions by the servers",
        "faults",
        "over time",
        "Every call had one end, nothing was executed twice, nothing is left. Seed 7.",
    ] {
        assert!(stdout.contains(promised), "no {promised:?} in\n{stdout}");
    }
}

#[tokio::test]
async fn soak_refuses_what_is_no_time() {
    for minutes in ["0", "NaN", "-1", "ages"] {
        let refused = run("soak", [format!("--minutes={minutes}")]).await;
        assert_eq!(refused.status.code(), Some(2));
        assert!(texts(&refused).1.contains("0.01 to 10000"), "{minutes}");
    }
}

/// One attack of each kind; `.ci/run siege` runs all of them.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn siege_shows_that_callers_feel_nothing() {
    let attacks = ["--only=quic-initials-26", "--only=one-key", "--only=pings"];
    let output = run("siege", ["--quick"].into_iter().chain(attacks)).await;
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert_eq!(stderr, "");
    for promised in [
        "| quic-initials-26 ",
        "| one-key ",
        "| pings ",
        "between the attacks:",
        "Every call was answered, in time, and the server is as it was.",
    ] {
        assert!(stdout.contains(promised), "no {promised:?} in\n{stdout}");
    }
}

#[tokio::test]
async fn siege_names_its_attacks_and_refuses_unknown_ones() {
    let list = run("siege", ["--list"]).await;
    assert!(list.status.success());
    for attack in ["tcp-silent ", "rapid-reset/quic ", "rapid-reset/tcp "] {
        assert!(texts(&list).0.contains(attack), "{attack}");
    }
    let refused = run("siege", ["--only=rapid-rest"]).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(texts(&refused).1.contains("`rapid-rest`; --list"));
}

#[tokio::test]
async fn hello_takes_two_programs() {
    let (server, ticket) = hello_server(&[]).await;
    hello_client(&ticket).await;
    interrupt(server).await;
}

#[tokio::test]
async fn hello_server_keeps_its_identity_in_a_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = folder.path().join("identity");
    let mut ids = BTreeSet::new();
    for _ in 0..2 {
        let (server, ticket) = hello_server(&["--key".as_ref(), key.as_os_str()]).await;
        // The ticket comes before Ctrl-C is listened for; a server that answers calls listens for it.
        hello_client(&ticket).await;
        ids.insert(ticket.parse::<tower_iroh::Peer>().expect("a ticket").id());
        interrupt(server).await;
    }
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn hello_client_names_a_malformed_ticket() {
    let output = run("hello_client", ["endpointgarbage"]).await;
    assert_eq!(output.status.code(), Some(2));
    let (_, stderr) = texts(&output);
    assert!(
        stderr.contains("\"endpointgarbage\" is not a peer"),
        "{stderr}"
    );
}

#[tokio::test]
async fn streaming_has_all_three_kinds() {
    expect_lines(
        "streaming",
        &[
            "server streaming: 100000 bytes",
            "client streaming: StreamSummary { count: 3, bytes: 11 }",
            "bidi streaming: b\"ping\"",
        ],
    )
    .await;
}

#[tokio::test]
async fn interceptor_health_tells_friend_from_stranger() {
    expect_lines(
        "interceptor_health",
        &[
            "friend: b\"friend\"",
            "stranger: PermissionDenied, only one peer may call this",
            "health: Serving",
            "health: NotServing",
        ],
    )
    .await;
}

#[tokio::test]
async fn dual_falls_back_and_returns() {
    let output = run("dual", ["--rate", "50", "--blocked", "3"]).await;
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    for said in [
        "iroh's packets are dropped from now on",
        "all calls go over TCP",
        "all calls are back on iroh",
        "Nothing was done twice.",
    ] {
        assert!(stdout.contains(said), "no {said:?} in\n{stdout}");
    }
    assert!(!stdout.contains('\x1b'), "no colours in a pipe");
}

#[tokio::test]
async fn layers_stand_on_both_sides() {
    expect_lines(
        "layers",
        &[
            "unary: b\"permitted\"",
            "server streaming: PermissionDenied",
            "breaker open: Unavailable",
            "buffer: 1 waiting",
            "released: b\"it waited\"",
            "reloaded: PermissionDenied",
        ],
    )
    .await;
}

#[tokio::test]
async fn shared_endpoint_serves_two_protocols() {
    expect_lines(
        "shared_endpoint",
        &["b\"over gRPC\"", "\"over a stream of our own\""],
    )
    .await;
}

#[tokio::test]
async fn traces_reach_a_collector_that_is_known_by_its_key() {
    expect_lines(
        "traces",
        &[
            "the collector is ",
            "tower_iroh.echo.v1.Echo/Echo SPAN_KIND_CLIENT trace ",
            "tower_iroh.echo.v1.Echo/Echo SPAN_KIND_SERVER trace ",
            "the server's span is the child of ",
        ],
    )
    .await;
}

#[test]
fn no_example_goes_without_a_test() {
    let tested = [
        "demo",
        "dual",
        "hello_client",
        "hello_server",
        "interceptor_health",
        "layers",
        "shared_endpoint",
        "siege",
        "soak",
        "streaming",
        "traces",
    ];
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let there: BTreeSet<_> = fs::read_dir(folder)
        .expect("the examples")
        .filter_map(|entry| {
            let path = entry.expect("an entry").path();
            Some(path.file_stem()?.to_str()?.to_owned())
        })
        .collect();
    assert_eq!(there, tested.map(str::to_owned).into());
}

/// Runs an example to its end, which must be a good one, and looks for lines in what it printed.
async fn expect_lines(name: &str, lines: &[&str]) {
    let output = run(name, [""; 0]).await;
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    for line in lines {
        assert!(
            stdout.lines().any(|it| it.starts_with(*line)),
            "no {line:?} in\n{stdout}"
        );
    }
}

/// A running `hello_server`, and the ticket that it printed.
async fn hello_server(args: &[&OsStr]) -> (Child, String) {
    let mut server = command("hello_server")
        .args(args)
        .spawn()
        .expect("it starts");
    let stdout = server.stdout.take().expect("piped");
    let mut lines = BufReader::new(stdout).lines();
    let line = timeout(PATIENCE, lines.next_line()).await;
    let line = line.expect("a line in time").expect("readable");
    (server, line.expect("a ticket"))
}

/// Runs `hello_client`, which must be answered.
async fn hello_client(ticket: &str) {
    let output = run("hello_client", [ticket, "good morning"]).await;
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{stderr}");
    assert!(stdout.ends_with("answered: good morning\n"), "{stdout}");
}

/// Presses Ctrl-C, and expects that the server ends by itself and well.
#[cfg(unix)]
async fn interrupt(mut server: Child) {
    let pid = server.id().expect("it is running");
    // The standard library sends no signals; every shell does.
    let kill = Command::new("sh")
        .args(["-c", &format!("kill -INT {pid}")])
        .status()
        .await;
    assert!(kill.expect("a shell").success());
    let status = timeout(PATIENCE, server.wait()).await;
    assert!(
        status
            .expect("it ends in time")
            .expect("a status")
            .success()
    );
}

#[cfg(not(unix))]
async fn interrupt(mut server: Child) {
    server.kill().await.expect("it was running");
}

async fn run<I>(name: &str, args: I) -> Output
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    let output = timeout(PATIENCE, command(name).args(args).output()).await;
    output
        .unwrap_or_else(|_| panic!("{name} was not over after {PATIENCE:?}"))
        .expect("it runs")
}

fn command(name: &str) -> Command {
    let test = env::current_exe().expect("this test is a file");
    // target/<profile>/deps/examples-<hash>, and target/<profile>/examples/<name>
    let profile = test.ancestors().nth(2).expect("in a folder of a folder");
    let mut path: PathBuf = profile.join("examples").join(name);
    path.set_extension(env::consts::EXE_EXTENSION);
    assert!(
        path.exists(),
        "{} is not there: `cargo test --workspace` builds it, `cargo test --test examples` does not",
        path.display()
    );
    let mut command = Command::new(path);
    // Somebody's RUST_LOG must not make an example say more than these tests expect.
    command
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}
