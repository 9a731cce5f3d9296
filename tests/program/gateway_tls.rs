//! The gateway's TLS, and clients that prove who they are.

use std::path::Path;

use rcgen::{CertifiedKey, KeyPair};
use tokio::net::TcpStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tower_iroh_proto::echo::echo_client::EchoClient;

use crate::{
    proxies::{Backend, request},
    running::Running,
    support::run,
};

fn own(name: &str) -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed([name.to_owned()]).expect("a key")
}

/// Writes the certificate and its key, and returns their files' names.
fn files(folder: &Path, name: &str, key: &CertifiedKey<KeyPair>) -> (String, String) {
    let file = |what: &str, text: String| {
        let file = folder.join(format!("{name}.{what}"));
        std::fs::write(&file, text).expect("written");
        file.to_str().expect("text").to_owned()
    };
    (
        file("crt", key.cert.pem()),
        file("key", key.signing_key.serialize_pem()),
    )
}

fn client(
    address: &str,
    server: &CertifiedKey<KeyPair>,
    own: Option<&CertifiedKey<KeyPair>>,
) -> EchoClient<Channel> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(server.cert.pem()))
        .domain_name("localhost");
    if let Some(own) = own {
        let key = own.signing_key.serialize_pem();
        tls = tls.identity(Identity::from_pem(own.cert.pem(), key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("a URI");
    EchoClient::new(endpoint.tls_config(tls).expect("valid").connect_lazy())
}

#[tokio::test]
async fn a_client_proves_itself_by_a_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, friend, stranger) = (own("localhost"), own("friend"), own("stranger"));
    let (cert, key) = files(folder.path(), "server", &server);
    let (authority, _) = files(folder.path(), "friend", &friend);
    let backend = Backend::start().await;
    let (_exposed, ticket) = Running::expose(&[&backend.address(), "--allow-all"]).await;
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    // Without a token it may be reached from other machines, because clients prove who they are.
    let args = [&ticket, "--listen", "0.0.0.0:0", "--client-ca", &authority];
    let args = [&args[..], &tls].concat();
    let (mut gateway, address) = Running::gateway(&args).await;
    let address = address.replace("0.0.0.0", "127.0.0.1");
    let answer = client(&address, &server, Some(&friend))
        .echo(request(b"hello"))
        .await;
    assert_eq!(
        answer.expect("answered").into_inner().payload,
        &b"hello"[..]
    );
    backend.forget();
    for (who, key) in [("nobody", None), ("a stranger", Some(&stranger))] {
        let answer = client(&address, &server, key).echo(request(b"no")).await;
        answer.expect_err(who);
    }
    let plain = Endpoint::from_shared(format!("http://{address}")).expect("a URI");
    let plain = EchoClient::new(plain.connect_lazy())
        .echo(request(b"no"))
        .await;
    plain.expect_err("clear text");
    assert_eq!(backend.header("te"), None, "nobody else was served");

    // A client that says nothing does not hold up the stop.
    let _silent = TcpStream::connect(&address).await.expect("connected");
    gateway.signal("TERM").await;
    assert!(gateway.ended().await.success());
}

#[tokio::test]
async fn tls_alone_proves_no_client() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = own("localhost");
    let (cert, key) = files(folder.path(), "server", &server);
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let gateway = ["gateway", "--bind", "127.0.0.1:0"];
    let open = run([&gateway[..], &["--listen", "0.0.0.0:0"], &tls].concat()).await;
    assert_eq!(open.code, Some(2), "{open:?}");
    assert!(open.stderr.contains("--client-ca"), "{open:?}");

    // On this machine's own address it may be anybody, and the token is never in clear text.
    let backend = Backend::start().await;
    let (_exposed, ticket) = Running::expose(&[&backend.address(), "--allow-all"]).await;
    let (_gateway, address) = Running::gateway(&[&[ticket.as_str()], &tls[..]].concat()).await;
    let answer = client(&address, &server, None)
        .echo(request(b"hello"))
        .await;
    answer.expect("answered");
}

#[tokio::test]
async fn a_file_that_is_no_certificate_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cert, key) = files(folder.path(), "server", &own("localhost"));
    let (_, other_key) = files(folder.path(), "other", &own("localhost"));
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").expect("written");
    let empty = empty.to_str().expect("text");
    for (args, named) in [
        (["--tls-cert", empty, "--tls-key", &key], empty),
        (["--tls-cert", &cert, "--tls-key", empty], empty),
        (["--tls-cert", &cert, "--tls-key", "/no/such"], "/no/such"),
        (["--tls-cert", &cert, "--tls-key", &other_key], &cert),
    ] {
        let gateway = ["gateway", "--bind", "127.0.0.1:0"];
        let refused = run([&gateway[..], &args].concat()).await;
        assert_eq!(refused.code, Some(2), "{args:?}: {refused:?}");
        assert!(refused.stderr.contains(named), "{args:?}: {refused:?}");
    }
    let alone = run(["gateway", "--client-ca", &cert]).await;
    assert_eq!(alone.code, Some(2), "{alone:?}");
    assert!(alone.stderr.contains("--tls-cert"), "{alone:?}");
}
