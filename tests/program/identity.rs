//! `id` and `ticket`.

use serde_json::Value;
use tower_iroh::Peer;

use crate::support::{program, run};

fn peer() -> Peer {
    let id = iroh::SecretKey::from_bytes(&[7; 32]).public();
    let addr = iroh::EndpointAddr::new(id).with_ip_addr("192.0.2.1:4433".parse().expect("valid"));
    let relay = "https://relay.example".parse().expect("valid");
    Peer::from(addr.with_relay_url(relay)).with_tcp(
        "db.example:7001"
            .parse::<tower_iroh::TcpAddr>()
            .expect("valid"),
    )
}

#[tokio::test]
async fn an_identity_is_kept_and_its_secret_is_not_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key");
    let args = ["id".as_ref(), "-key-file".as_ref(), file.as_os_str()];
    let made = run(args).await;
    assert_eq!((made.code, made.stderr.as_str()), (Some(0), ""));
    let shown = run(args.into_iter().chain(["--json".as_ref()])).await;
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(shown["id"], made.stdout.trim());
    let secret = std::fs::read_to_string(&file).expect("the key");
    assert!(!shown.to_string().contains(secret.trim()));
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_not_quoted() {
    let wrong = "00112233445566778899aabbccddeeff";
    let output = program(["id"])
        .env("IROH_SECRET", wrong)
        .output()
        .await
        .expect("started");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr.contains("IROH_SECRET") && stderr.contains("64 hexadecimal digits"),
        "{stderr}"
    );
    assert!(!stderr.contains(wrong), "{stderr}");
}

#[tokio::test]
async fn a_ticket_is_read_and_shortened() {
    let ticket = peer().ticket();
    let read = run(["ticket", &format!("  {ticket} ")]).await;
    let expected = format!(
        "id       {}\naddress  192.0.2.1:4433\nrelay    https://relay.example/\ntcp      db.example:7001\n",
        peer().id()
    );
    assert_eq!((read.code, read.stdout), (Some(0), expected));

    let short = run(["ticket", "-short", &ticket]).await;
    let read: Peer = short.stdout.trim().parse().expect("a ticket");
    assert_eq!(read.id(), peer().id());
    assert_eq!(read.addr().addrs.len(), 1, "the relay alone");
    assert!(short.stdout.len() < ticket.len());
}

#[tokio::test]
async fn a_ticket_that_was_cut_is_a_mistake_with_a_sentence() {
    let ticket = peer().ticket();
    let cut = run(["ticket", &ticket[..40]]).await;
    assert_eq!(cut.code, Some(2), "{cut:?}");
    assert!(
        cut.stderr.contains("A peer is a ticket, an endpoint id"),
        "{cut:?}"
    );
    let json = run(["ticket", "--json", &ticket[..40]]).await;
    let error: Value = serde_json::from_str(&json.stderr).expect("JSON");
    assert_eq!(error["code"], 3, "INVALID_ARGUMENT");
}
