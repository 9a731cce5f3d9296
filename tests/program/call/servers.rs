//! Servers that do not speak iroh: certificates, unix sockets, and silence.

use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming};

use super::{Place, SERVICE, assert_ok, harness::Arm};
use crate::support::{ended, run, spawn};

fn health()
-> tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health> {
    let reporter = tonic_health::server::HealthReporter::new();
    let service = tonic_health::server::HealthService::from_health_reporter(reporter);
    tonic_health::pb::health_server::HealthServer::new(service)
}

fn tls() -> ServerTlsConfig {
    let made = rcgen::generate_simple_self_signed(["db.example".to_owned()]).expect("a key");
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    ServerTlsConfig::new().identity(Identity::from_pem(cert, key))
}

/// The name in the certificate is another one too.
#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_accepted_where_that_is_said() {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("valid")).expect("a free port");
    let target = format!("tcp://{}", incoming.local_addr().expect("bound"));
    let mut server = Server::builder().tls_config(tls()).expect("valid");
    tokio::spawn(server.add_service(health()).serve_with_incoming(incoming));
    let refused = run(["health", &target]).await;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stderr.contains("UnknownIssuer"), "{refused:?}");
    let accepted = run(["health", &target, "-insecure"]).await;
    assert_ok(&accepted);
    let both = run(["health", &target, "-insecure", "-plaintext"]).await;
    assert_eq!(both.code, Some(2), "{both:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_a_target_with_and_without_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, secured) in [("plain", false), ("tls", true)] {
        let path = folder.path().join(name);
        let listener = tokio::net::UnixListener::bind(&path).expect("bound");
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let mut server = Server::builder();
        if secured {
            server = server.tls_config(tls()).expect("valid");
        }
        tokio::spawn(server.add_service(health()).serve_with_incoming(incoming));
        let how = if secured { "-insecure" } else { "-plaintext" };
        let path = path.to_str().expect("text");
        for target in [
            &[path, "-unix"][..],
            &[path, "-unix=true"],
            &[&format!("unix://{path}"), "-unix"],
            &[&format!("unix:{path}")],
        ] {
            let ended = run(["health", how].iter().chain(target)).await;
            assert_ok(&ended);
        }
    }
    let missing = format!("unix:{}/no", folder.path().display());
    let ended = run(["health", &missing, "-plaintext"]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    let ended = run(["ticket", &missing]).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

/// The server hears no more, and its connection stays open.
#[tokio::test]
async fn a_silent_server_is_noticed_by_its_pings() {
    let place = Place::new(Arm::Tcp).await;
    let server = place.world.server_addr().expect("on TCP");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = format!("tcp://{}", listener.local_addr().expect("bound"));
    let method = format!("{SERVICE}/UnaryCall");
    let child = spawn([
        "call",
        &target,
        "-plaintext",
        &method,
        "-d",
        "{\"sleepMs\": 60000}",
        "-keepalive-time",
        "2",
    ]);
    let (mut from, _) = listener.accept().await.expect("the program dials");
    let mut to = TcpStream::connect(server).await.expect("it serves");
    let (mut from, mut to) = (&mut from, &mut to);
    let forwarded = tokio::io::copy_bidirectional(&mut from, &mut to);
    tokio::select! {
        ended = forwarded => panic!("the call was to last: {ended:?}"),
        _ = place.world.backstage.wait("the call", |it| it.begun == 1) => {}
    }
    let ended = ended(child).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
}
