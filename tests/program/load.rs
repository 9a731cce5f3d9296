//! `load`: real servers over iroh and over TCP, called by a schedule.

use serde_json::{Value, json};

use crate::{
    call::{Place, SERVICE, harness::Arm},
    running::Running,
    support::{Ended, run},
};

const UNARY: &str = "tower_iroh.testing.v1.TestService/UnaryCall";
const STREAM: &str = "tower_iroh.testing.v1.TestService/StreamingOutputCall";

/// 100 calls, and nothing before them.
const SHORT: [&str; 6] = ["--rate", "100", "--duration", "1", "--warm-up", "0"];

fn args<'a>(method: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [method].iter().chain(&SHORT).chain(rest).copied().collect()
}

/// What `--json` prints.
fn report(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

/// The cells of a row of the table.
fn row(table: &str, name: &str) -> String {
    let line = table.lines().find_map(|line| line.strip_prefix(name));
    let cells = line.unwrap_or_else(|| panic!("no {name} in {table}"));
    cells.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

#[tokio::test]
async fn each_call_of_the_schedule_is_made_over_iroh_and_over_tcp() {
    for place in Place::both().await {
        let rest = [
            "--warm-up",
            "0.5",
            "--duration",
            "1.5",
            "--json",
            "-d",
            "{}",
        ];
        let rest: Vec<_> = [UNARY, "--rate", "100"]
            .iter()
            .chain(&rest)
            .copied()
            .collect();
        let ended = place.run("load", &rest).await;
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{ended:?}");
        let report = report(&ended);
        let target = &report["targets"][0];
        for (name, expected) in [
            ("sent", 150),
            ("answered", 150),
            ("failed", 0),
            ("not_sent", 0),
        ] {
            assert_eq!(target[name], expected, "{name} in {report}");
        }
        assert_eq!(
            place.world.backstage.counts().finished,
            200,
            "with the warm-up"
        );
        // Less if the machine stood still at the end.
        let rate = number(&target["rate_reached"]);
        assert!(rate > 0.0 && rate <= 100.1, "{report}");
        let latency = |name: &str| number(&target["latency_ms"][name]);
        let rising = ["min", "p50", "p90", "p99", "p99_9", "max"].map(latency);
        assert!(rising.is_sorted() && rising[0] > 0.0, "{report}");
        assert!(
            (rising[0]..=rising[5]).contains(&latency("mean")),
            "{report}"
        );
        assert_eq!(
            (&report["interrupted"], &report["ratio"]),
            (&json!(false), &json!({}))
        );
    }
}

#[tokio::test]
async fn a_server_that_is_slow_is_called_as_often_and_looks_slow() {
    for place in Place::both().await {
        let ended = place
            .run(
                "load",
                &args(UNARY, &["--json", "-d", r#"{"sleep_ms": 700}"#]),
            )
            .await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let report = report(&ended);
        let target = &report["targets"][0];
        assert_eq!(
            (&target["sent"], &target["answered"]),
            (&json!(100), &json!(100))
        );
        assert!(number(&target["latency_ms"]["min"]) >= 699.0, "{report}");
    }
}

#[tokio::test]
async fn what_is_over_the_limit_is_counted_and_not_sent() {
    let place = Place::new(Arm::Channel).await;
    // The first answers come when all calls have been due.
    let data = r#"{"sleep_ms": 5000}"#;
    let ended = place
        .run(
            "load",
            &args(UNARY, &["--json", "--max-in-flight", "7", "-d", data]),
        )
        .await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let report = report(&ended);
    let target = &report["targets"][0];
    let (sent, not_sent) = (number(&target["sent"]), number(&target["not_sent"]));
    assert_eq!(sent + not_sent, 100.0, "{report}");
    // A machine that stands still for four seconds lets a second set of seven in.
    assert!((7.0..=14.0).contains(&sent), "{report}");
    assert_eq!(number(&target["answered"]), sent, "{report}");
}

#[tokio::test]
async fn two_targets_take_turns_and_are_compared() {
    let [iroh, tcp] = Place::both().await;
    let other = tcp.target[0].as_str();
    let rest = ["--beside", other, "-plaintext", "-d", "{}"];
    let ended = iroh.run("load", &args(UNARY, &rest)).await;
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{ended:?}");
    let row = |name| row(&ended.stdout, name);
    assert_eq!(row("target"), format!("iroh {other}"));
    assert_eq!(row("sent"), "100 100");
    assert_eq!(row("answered"), "100 100");
    assert!(row("p50 of iroh is ").contains(&format!("times that of {other} (quartiles ")));
    for world in [&iroh.world, &tcp.world] {
        assert_eq!(world.backstage.counts().finished, 100);
    }

    let json = iroh
        .run("load", &args(UNARY, &[&rest[..], &["--json"]].concat()))
        .await;
    let report = report(&json);
    for name in ["p50", "p99"] {
        let quartile = |name: &str, of: &str| number(&report["ratio"][name][of]);
        let [lower, median, upper] =
            ["lower_quartile", "median", "upper_quartile"].map(|of| quartile(name, of));
        assert!(
            0.0 < lower && lower <= median && median <= upper,
            "{report}"
        );
    }
}

#[tokio::test]
async fn the_same_peer_is_compared_over_both_of_its_transports() {
    let backend = crate::proxies::Backend::start().await;
    let address = backend.address();
    let (_exposed, ticket) =
        Running::expose(&[&address, "--allow-all", "--tcp", "127.0.0.1:0"]).await;
    let words = [
        "load",
        &ticket,
        "--json",
        "--bind",
        "127.0.0.1:0",
        "--beside",
        "tcp",
    ];
    let ended = run(words.iter().chain(&SHORT)).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report = report(&ended);
    for (number, name) in ["iroh", "tcp"].into_iter().enumerate() {
        let target = &report["targets"][number];
        assert_eq!(
            (&target["target"], &target["answered"]),
            (&json!(name), &json!(100))
        );
    }
}

#[tokio::test]
async fn failures_are_counted_by_code_and_not_made_again() {
    for place in Place::both().await {
        let data = r#"{"response_status": {"code": 14, "message": "closed"}} {}"#;
        let ended = place
            .run("load", &args(UNARY, &["--json", "-d", data]))
            .await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let report = report(&ended);
        let target = &report["targets"][0];
        assert_eq!(
            (&target["answered"], &target["failed"]),
            (&json!(50), &json!(50))
        );
        let expected = json!([{ "code": "UNAVAILABLE", "count": 50, "first_message": "closed" }]);
        assert_eq!(target["failed_by_code"], expected);
        assert_eq!(place.world.backstage.counts().begun, 100);

        let data = r#"{"sleep_ms": 20000}"#;
        let ended = place
            .run("load", &args(UNARY, &["-max-time", "0.1", "-d", data]))
            .await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert_eq!(row(&ended.stdout, "DEADLINE_EXCEEDED"), "100");
    }
}

#[tokio::test]
async fn a_stream_of_responses_is_read_to_its_end() {
    let place = Place::new(Arm::Channel).await;
    let data = r#"{"responses": [{"size": 10}, {"size": 10, "interval_ms": 300}]}"#;
    let ended = place
        .run("load", &args(STREAM, &["--json", "-d", data]))
        .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report = report(&ended);
    assert!(
        number(&report["targets"][0]["latency_ms"]["min"]) >= 299.0,
        "{report}"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_ends_the_run_and_prints_what_there_is() {
    let place = Place::new(Arm::Channel).await;
    let rest = [
        UNARY,
        "--duration",
        "3600",
        "--warm-up",
        "0",
        "-d",
        r#"{"sleep_ms": 60000}"#,
    ];
    let mut running = Running::start(place.args("load", &rest));
    place
        .world
        .backstage
        .wait("five calls", |it| it.begun >= 5)
        .await;
    running.signal("INT").await;
    let mut table = String::new();
    while let Some(line) = running.first_line().await {
        table += &(line + "\n");
    }
    assert_eq!(running.ended().await.code(), Some(130), "{table}");
    assert_eq!(row(&table, "sent"), row(&table, "unfinished"));
    assert_eq!(row(&table, "answered"), "0");
    assert_eq!(row(&table, "p50"), "-");
    // The calls in flight were reset.
    let world = &place.world;
    world
        .backstage
        .wait("the end of all", |it| it.begun == it.cancelled)
        .await;
}

#[tokio::test]
async fn a_target_that_is_away_is_told_at_once() {
    // Bound, so that nobody else listens there, and not listening.
    let free = tokio::net::TcpSocket::new_v4().expect("a socket");
    free.bind(([127, 0, 0, 1], 0).into()).expect("bound");
    let target = format!("tcp://{}", free.local_addr().expect("an address"));
    let ended = run(["load", &target, "-plaintext", "--duration", "3600"]).await;
    assert_eq!(
        (ended.code, &*ended.stdout),
        (Some(64 + 14), ""),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("Unavailable"), "{ended:?}");
}

#[tokio::test]
async fn mistakes_are_told_before_anything_is_called() {
    let place = Place::new(Arm::Tcp).await;
    for (rest, says) in [
        (&["--rate", "0"][..], "`0` is not a rate"),
        (&["--rate", "-1"], "`-1` is not a rate"),
        (&["--rate", "NaN"], "`NaN` is not a rate"),
        (&["--rate", "1e7"], "up to 1000000"),
        (&["--duration", "0"], "above 0"),
        (&["--warm-up", "-1"], "`-1` is not a number of seconds"),
        (&["--max-in-flight", "0"], "0 is not in 1..=1000000"),
        (&["--rate", "0.1", "--duration", "1"], "makes no call"),
        (&["--duration", "1e9"], "up to a year"),
        (&["--beside", "nobody"], "A peer is a ticket"),
        (&["EmptyCall"], "`EmptyCall` is not a method's name"),
        (
            &["tower_iroh.testing.v1.TestService/FullDuplexCall"],
            "takes a stream of requests",
        ),
    ] {
        let ended = place.run("load", rest).await;
        assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{ended:?}");
        assert!(ended.stderr.contains(says), "no {says:?} in {ended:?}");
    }
    let wrong = format!("{SERVICE}/UnaryCal");
    for (rest, says) in [
        (&[wrong.as_str()][..], "did you mean `UnaryCall`?"),
        (&[UNARY, "-d", r#"{"sleep": 1}"#], "did you mean `sleepMs`?"),
    ] {
        let ended = place.run("load", rest).await;
        assert_eq!((ended.code, &*ended.stdout), (Some(1), ""), "{ended:?}");
        assert!(ended.stderr.contains(says), "no {says:?} in {ended:?}");
    }
    assert_eq!(place.world.backstage.counts().begun, 0);
}

#[tokio::test]
async fn the_options_of_call_are_those_of_load() {
    let place = Place::new(Arm::Channel).await;
    let proto = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/proto/proto/tower_iroh/testing/v1/testing.proto"
    );
    let rest = args(UNARY, &["-proto", proto, "-H", "x-test: yes", "-v"]);
    let words = place.args("load", &rest);
    let ended = run(words).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("transport  iroh"), "{ended:?}");
    let seen = place.world.backstage.take_request();
    assert_eq!(seen.metadata().get("x-test").expect("the header"), "yes");
    assert!(seen.metadata().contains_key("grpc-timeout"), "{seen:?}");
}
