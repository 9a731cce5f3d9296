//! The four kinds of call, and requests as they arrive.

use std::process::Stdio;

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    time::timeout,
};

use super::{ECHO, Place, SERVICE, assert_ok, harness::Arm, values};
use crate::support::{PATIENCE, program};

#[tokio::test]
async fn all_four_kinds_over_both_transports() {
    for place in Place::both().await {
        let unary = place
            .call("UnaryCall", &["-d", r#"{"responseSize": 3}"#])
            .await;
        assert_ok(&unary);
        let answer = &values(&unary.stdout)[0];
        assert_eq!(answer["payload"], json!({ "body": "AAEC" }), "{answer}");
        assert!(
            unary
                .stdout
                .starts_with("{\n  \"payload\": {\n    \"body\": \"AAEC\"\n  }")
        );

        let request = r#"{"responses": [{"size": 1}, {"size": 2}]}"#;
        let stream = place.call("StreamingOutputCall", &["-d", request]).await;
        assert_ok(&stream);
        let answers = values(&stream.stdout);
        assert_eq!(answers.len(), 2);
        assert_eq!(answers[1]["sequence"], "1", "64 bits are a string");

        let requests = r#"{"payload": {"body": "AAE="}} {"payload": {"body": "AQID"}}"#;
        let sum = place.call("StreamingInputCall", &["-d", requests]).await;
        assert_ok(&sum);
        let expected = json!({ "aggregatedSize": "5", "count": "2" });
        assert_eq!(values(&sum.stdout), [expected]);

        let requests = r#"{"responses": [{"size": 1}]}{"responses": [{}, {}]}"#;
        let duplex = place.call("FullDuplexCall", &["-d", requests]).await;
        assert_ok(&duplex);
        assert_eq!(values(&duplex.stdout).len(), 3);
        place.world.stop().await;
    }
}

#[tokio::test]
async fn without_data_a_unary_call_has_an_empty_request_and_a_stream_none() {
    let [place, _] = Place::both().await;
    // Both spellings of a method's name.
    let name = "tower_iroh.testing.v1.TestService.EmptyCall";
    let empty = place.run("call", &[name]).await;
    assert_ok(&empty);
    assert_eq!(empty.stdout, "{}\n");
    let sum = place.call("StreamingInputCall", &["-emit-defaults"]).await;
    assert_ok(&sum);
    assert_eq!(values(&sum.stdout)[0]["count"], "0");
    let two = place.call("EmptyCall", &["-d", "{} {}"]).await;
    assert_eq!(two.code, Some(1));
    assert!(
        two.stderr.contains("takes one request, and there are more"),
        "{two:?}"
    );
}

/// The writer of the pipe sends the next request when it has the answer to the last one.
#[tokio::test]
async fn ping_pong_through_a_pipe() {
    for place in Place::both().await {
        let method = format!("{ECHO}/BidiStream");
        let args = place.args("call", &[&method, "-d", "@", "--json"]);
        let mut child = program(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut stdin = child.stdin.take().expect("piped");
        let mut answers = BufReader::new(child.stdout.take().expect("piped")).lines();
        for payload in ["YQ==", "YmI=", "Y2Nj"] {
            // In two pieces, and without a line's end: the closing bracket is the end.
            stdin.write_all(b"{\"payload\":").await.expect("open");
            stdin.flush().await.expect("open");
            let rest = format!("\"{payload}\"}}");
            stdin.write_all(rest.as_bytes()).await.expect("open");
            let answer = timeout(PATIENCE, answers.next_line())
                .await
                .expect("in time");
            let answer = answer.expect("text").expect("an answer");
            assert_eq!(answer, format!("{{\"payload\":\"{payload}\"}}"));
        }
        drop(stdin);
        let ended = timeout(PATIENCE, child.wait()).await.expect("in time");
        assert_eq!(ended.expect("started").code(), Some(0));
        place.world.stop().await;
    }
}

/// The server has said all, so the program does not wait for a person who says nothing.
#[tokio::test]
async fn a_call_that_the_server_ends_is_over_although_the_input_is_not() {
    for place in Place::both().await {
        let method = format!("{SERVICE}/FullDuplexCall");
        let args = place.args("call", &[&method, "-d", "@", "-H", "x-test-at-once: 1"]);
        let mut child = program(args)
            .stdin(Stdio::piped())
            .spawn()
            .expect("started");
        let stdin = child.stdin.take();
        let ended = timeout(PATIENCE, child.wait()).await.expect("in time");
        assert_eq!(ended.expect("started").code(), Some(0));
        drop(stdin);
    }
}

#[tokio::test]
async fn requests_come_from_a_file_and_from_standard_input() {
    let [place, _] = Place::both().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("requests.json");
    std::fs::write(
        &file,
        "{\"payload\": \"YQ==\"}\n\n{\"payload\": \"Yg==\"}\n",
    )
    .expect("written");
    let method = format!("{ECHO}/ClientStream");
    let data = format!("@{}", file.display());
    let from_file = place.run("call", &[&method, "-d", &data]).await;
    assert_ok(&from_file);
    assert_eq!(
        values(&from_file.stdout),
        [json!({ "count": "2", "bytes": "2" })]
    );

    let stdin = std::fs::File::open(&file).expect("there");
    let args = place.args("call", &[&method, "-d", "@"]);
    let output = program(args).stdin(stdin).output().await.expect("started");
    assert_eq!(output.stdout, from_file.stdout.as_bytes());

    let missing = place.run("call", &[&method, "-d", "@no/such/file"]).await;
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("`-d @no/such/file`"), "{missing:?}");
}

#[tokio::test]
async fn the_text_format_in_and_out() {
    let [place, _] = Place::both().await;
    let method = format!("{ECHO}/BidiStream");
    let data = "payload: \"a\"\x1epayload: \"b\"";
    let text = place
        .run("call", &[&method, "-format", "text", "-d", data])
        .await;
    assert_ok(&text);
    assert_eq!(text.stdout, "payload: \"a\"\n\x1epayload: \"b\"\n");
}

/// Many small requests, and one that comes in hundreds of chunks. More small ones are a flood for the server's h2.
#[tokio::test]
async fn a_long_input_is_read_once() {
    let place = Place::new(Arm::Tcp).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("requests");
    let data = format!("@{}", file.display());
    let method = format!("{ECHO}/ClientStream");
    for (separator, format) in [("", "json"), ("\x1e", "text")] {
        let (small, large) = match format {
            "json" => (
                "{}",
                format!("{{\"payload\": \"{}\"}}", "A".repeat(3 << 20)),
            ),
            _ => ("payload: ''", format!("payload: '{}'", "A".repeat(3 << 20))),
        };
        let mut requests = vec![small; 300];
        requests.push(&large);
        std::fs::write(&file, requests.join(separator)).expect("written");
        let args = [&method, "-d", &data, "-format", format];
        let ended = place.run("call", &args).await;
        assert_ok(&ended);
        assert!(ended.stdout.contains("301"), "{ended:?}");
    }
}
