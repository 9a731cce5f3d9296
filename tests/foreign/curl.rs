//! `buf curl`, which knows of the services only what the server's reflection says.

use std::process::{Output, Stdio};

use serde_json::{Deserializer, Value};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};
use tower_iroh_lab::Case;

use crate::{
    case,
    clients::{buf, buf_missing},
    route::{Route, Way},
    support::{Arm, ServerOptions, World},
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for way in [Way::Direct, Way::Gateway] {
        let name = |name| format!("curl::{}::{name}", way.name());
        cases.push(case(name("unary"), buf_missing(), move || unary(way)));
        cases.push(case(name("status"), buf_missing(), move || status(way)));
        cases.push(case(name("server_stream"), buf_missing(), move || {
            server_stream(way)
        }));
        cases.push(case(name("bidi"), buf_missing(), move || bidi(way)));
    }
    cases
}

/// A server, a way to it, and `buf curl` for one of its methods.
struct Curl {
    _world: World,
    route: Route,
    // buf keeps its cache in its user's home.
    home: tempfile::TempDir,
}

impl Curl {
    async fn new(way: Way) -> Self {
        let world = World::start(Arm::Tcp, ServerOptions::default()).await;
        let route = Route::lay(way, world.server_addr().expect("TCP")).await;
        Self {
            _world: world,
            route,
            home: tempfile::tempdir().expect("a folder"),
        }
    }

    fn command(&self, method: &str, data: &str) -> Command {
        let target = &self.route.target;
        let mut command = Command::new(buf());
        command
            .args(["curl", "--protocol", "grpc", "--http2-prior-knowledge"])
            .args(["--data", data])
            .arg(format!(
                "http://{target}/tower_iroh.testing.v1.TestService/{method}"
            ))
            .env("HOME", self.home.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        self.route.set_proxy(&mut command);
        command
    }

    async fn run(&self, method: &str, data: Value) -> Output {
        let output = self.command(method, &data.to_string()).output().await;
        output.expect("buf starts")
    }
}

fn answers(output: &Output) -> Vec<Value> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    let answers = Deserializer::from_slice(&output.stdout).into_iter();
    answers.collect::<Result<_, _>>().expect("JSON")
}

async fn unary(way: Way) {
    let curl = Curl::new(way).await;
    let request = serde_json::json!({ "responseSize": 3, "payload": { "body": "AAEC" } });
    let answers = answers(&curl.run("UnaryCall", request).await);
    assert_eq!(answers.len(), 1, "{answers:?}");
    // The payload of three bytes is 0, 1, 2.
    assert_eq!(answers[0]["payload"]["body"], "AAEC");
    assert_eq!(answers[0]["receivedSize"], "3");
}

async fn status(way: Way) {
    let curl = Curl::new(way).await;
    let message = "nowhere \u{263a}";
    let request = serde_json::json!({ "responseStatus": { "code": 5, "message": message } });
    let output = curl.run("UnaryCall", request).await;
    // buf ends with eight times the code.
    assert_eq!(output.status.code(), Some(5 << 3));
    let error: Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert_eq!(error["code"], "not_found");
    assert_eq!(error["message"], message);
}

async fn server_stream(way: Way) {
    let curl = Curl::new(way).await;
    let request = serde_json::json!({ "responses": [{ "size": 1 }, { "size": 2 }, {}] });
    let answers = answers(&curl.run("StreamingOutputCall", request).await);
    let sequence: Vec<_> = answers.iter().map(|it| it["sequence"].clone()).collect();
    // What is zero is not in the JSON.
    assert_eq!(sequence, [Value::Null, "1".into(), "2".into()]);
}

/// A request is written once the answer to the one before is read.
async fn bidi(way: Way) {
    let curl = Curl::new(way).await;
    let mut child = curl
        .command("FullDuplexCall", "@-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("buf starts");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = child.stdout.take().expect("piped");
    let mut seen = Vec::new();
    for number in 0..5_usize {
        let request = serde_json::json!({ "responses": [{ "size": number }] });
        let written = stdin.write_all(request.to_string().as_bytes()).await;
        written.expect("buf reads");
        loop {
            let answers = Deserializer::from_slice(&seen).into_iter::<Value>();
            if answers.filter_map(Result::ok).count() > number {
                break;
            }
            let read = stdout.read_buf(&mut seen).await.expect("readable");
            assert!(read > 0, "buf ended after {number} answers");
        }
    }
    drop(stdin);
    stdout.read_to_end(&mut seen).await.expect("readable");
    let status = child.wait().await.expect("started");
    assert!(status.success(), "{status}");
    let answers = Deserializer::from_slice(&seen).into_iter::<Value>();
    let sequence: Vec<_> = answers
        .map(|it| it.expect("JSON")["sequence"].clone())
        .collect();
    assert_eq!(
        sequence,
        [Value::Null, "1".into(), "2".into(), "3".into(), "4".into()]
    );
}
