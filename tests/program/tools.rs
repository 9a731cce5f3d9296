//! `ping`, `doctor`, `completions`, `man`.

use serde_json::Value;
use tokio::net::UdpSocket;
use tower_iroh::Peer;

use crate::{
    proxies::Backend,
    running::Running,
    support::{program, run},
};

const BIND: [&str; 2] = ["--bind", "127.0.0.1:0"];

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

async fn exposed(args: &[&str]) -> (Backend, Running, String) {
    let backend = Backend::start().await;
    let address = backend.address();
    let args: Vec<_> = std::iter::once(address.as_str())
        .chain(args.iter().copied())
        .collect();
    let (exposed, ticket) = Running::expose(&args).await;
    (backend, exposed, ticket)
}

/// A peer with this address and a key that nobody there has.
fn somebody_at(addr: std::net::SocketAddr) -> String {
    let id = iroh::SecretKey::from_bytes(&[7; 32]).public();
    Peer::from(iroh::EndpointAddr::new(id).with_ip_addr(addr)).ticket()
}

#[tokio::test]
async fn ping_shows_the_way_and_the_answers() {
    let (_backend, _exposed, ticket) = exposed(&["--allow-all"]).await;
    let args = ["ping", &ticket, "-count", "3", "-interval", "0.01"];
    let text = run(args.iter().chain(&BIND)).await;
    assert_eq!(text.code, Some(0), "{text:?}");
    assert!(
        text.stdout.contains("  direct 127.0.0.1:") && text.stdout.contains("SERVING"),
        "{text:?}"
    );
    assert!(text.stdout.contains("3 of 3 answered"), "{text:?}");

    let json = run(args.iter().chain(&BIND).chain(&["--json"])).await;
    let lines = lines(&json.stdout);
    assert_eq!(
        lines.len(),
        5,
        "the connection, three answers, the summary: {json:?}"
    );
    assert_eq!(
        (&lines[4]["asked"], &lines[4]["answered"]),
        (&3.into(), &3.into())
    );
    assert!(lines[2]["transport_ms"].as_f64().expect("a number") > 0.0);
    assert!(lines[4]["direct_after_ms"].is_number(), "{json:?}");
}

#[tokio::test]
async fn ping_of_a_peer_that_is_away_fails_with_its_code() {
    // Bound and silent.
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let ticket = somebody_at(socket.local_addr().expect("an address"));
    let args = ["ping", &ticket, "-connect-timeout", "0.3"];
    let ended = run(args.iter().chain(&BIND)).await;
    assert_eq!(ended.code, Some(64 + 14), "{ended:?}");
    assert!(ended.stderr.contains("Unavailable"), "{ended:?}");
}

#[tokio::test]
async fn doctor_finds_nothing_wrong_where_nothing_is() {
    let (_backend, _exposed, ticket) = exposed(&["--allow-all"]).await;
    let ended = run(["doctor", &ticket].iter().chain(&BIND)).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for text in [
        "this endpoint is",
        "bound to 127.0.0.1:",
        "direct 127.0.0.1:",
        "answers: SERVING",
    ] {
        assert!(ended.stdout.contains(text), "no {text:?} in {ended:?}");
    }
}

/// What the doctor calls wrong, and what to do about it.
async fn wrong(args: &[&str]) -> (String, String) {
    let args = ["doctor", "--json", "--connect-timeout", "3"]
        .iter()
        .chain(args)
        .chain(&BIND);
    let ended = run(args).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let wrong: Vec<_> = lines(&ended.stdout)
        .into_iter()
        .filter(|line| line["ok"] == false)
        .collect();
    assert_eq!(wrong.len(), 1, "{ended:?}");
    let text = |key: &str| wrong[0][key].as_str().expect("text").to_owned();
    (text("check"), text("remedy"))
}

#[tokio::test]
async fn doctor_says_what_is_wrong_and_what_to_do() {
    let (backend, _exposed, ticket) = exposed(&["--allow-all"]).await;
    let peer: Peer = ticket.parse().expect("a ticket");
    let addr = peer.addr().ip_addrs().next().copied().expect("an address");
    let (check, remedy) = wrong(&[&somebody_at(addr)]).await;
    assert_eq!(check, "dial");
    assert!(remedy.contains("Another key answers"), "{remedy}");

    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let (check, remedy) = wrong(&[&somebody_at(silent.local_addr().expect("an address"))]).await;
    assert_eq!(check, "dial");
    assert!(remedy.contains("UDP is blocked"), "{remedy}");

    let (check, remedy) = wrong(&[&peer.id().to_string()]).await;
    assert_eq!(check, "ticket");
    assert!(remedy.contains("whole ticket"), "{remedy}");

    backend.stop().await;
    let (check, remedy) = wrong(&[&ticket]).await;
    assert_eq!(check, "program");
    assert!(remedy.contains("start the server"), "{remedy}");

    let nobody = iroh::SecretKey::from_bytes(&[9; 32]).public().to_string();
    let (_backend, _exposed, ticket) = exposed(&["--allow", &nobody]).await;
    let (check, remedy) = wrong(&[&ticket]).await;
    assert_eq!(check, "policy");
    assert!(remedy.contains("--allow ID"), "{remedy}");
}

#[cfg(unix)]
#[tokio::test]
async fn doctor_looks_at_the_key_file() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key");
    let path = file.to_str().expect("text");
    assert_eq!(run(["id", "--key-file", path]).await.code, Some(0));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("set");
    let (check, remedy) = wrong(&["--key-file", path]).await;
    assert_eq!(check, "key");
    assert!(remedy.contains("chmod 600"), "{remedy}");
}

#[tokio::test]
async fn the_shell_and_man_know_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let page = run(["completions", shell]).await;
        assert_eq!(page.code, Some(0), "{page:?}");
        assert!(
            page.stdout.contains("gateway") && page.stdout.contains("cors-origin"),
            "{shell}"
        );
    }
    let page = run(["man"]).await;
    assert!(
        page.stdout.contains("tower\\-iroh\\-expose"),
        "{}",
        page.stdout
    );
}

#[tokio::test]
async fn each_verb_has_an_example() {
    let help = run(["--help"]).await.stdout;
    let commands = help.split("Commands:").nth(1).expect("the verbs");
    let lines = commands.lines().skip(1).take_while(|line| !line.is_empty());
    // What a verb does may take more than one line, which is indented further.
    let named = lines.filter_map(|line| line.strip_prefix("  ").filter(|it| !it.starts_with(' ')));
    let verbs: Vec<_> = named
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(
        verbs.contains(&"expose") && verbs.contains(&"ping"),
        "{verbs:?}"
    );
    for verb in verbs.into_iter().filter(|verb| *verb != "help") {
        let help = program([verb, "--help"]).output().await.expect("started");
        let help = String::from_utf8(help.stdout).expect("text");
        assert!(
            help.contains(&format!("tower-iroh {verb}")) && help.contains("Example"),
            "{verb}: {help}"
        );
    }
}

#[tokio::test]
async fn the_demo_shows_what_it_says() {
    let ended = run(["demo"]).await;
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
    for text in [
        "$ tower-iroh expose 127.0.0.1:",
        "demo.v1.Greeter\n",
        "\"text\": \"Hello, peer!\"",
        "$ tower-iroh gateway endpoint",
        "\"left\": 1",
        "gateway and expose",
        "With your own server:",
    ] {
        assert!(
            ended.stdout.contains(text),
            "no {text:?} in {}",
            ended.stdout
        );
    }
}
