//! What the program is given in confidence stands in nothing that it prints, whatever it is asked to log.

use std::path::Path;

use crate::{
    proxies::{Backend, client, request},
    running::Running,
    support::{ended, program, run},
};

#[path = "../support/secret.rs"]
mod secret;

use secret::Secret;

const TOKEN: &str = "correct-horse-battery-staple";

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("written");
    #[cfg(unix)]
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("set");
    path.to_str().expect("text").to_owned()
}

/// An identity in a file, and what nobody is to see of it.
fn key(folder: &Path, name: &'static str) -> (String, iroh::SecretKey, Secret) {
    let key = iroh::SecretKey::generate();
    let hex: String = key.to_bytes().iter().map(|b| format!("{b:02x}")).collect();
    let secret = Secret::key(name, &key.to_bytes());
    (file(folder, name, &hex), key, secret)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expose_and_gateway_and_call_log_no_secret_at_trace_level() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (server_file, _, server) = key(folder, "server");
    let (gateway_file, gateway_key, gateway) = key(folder, "gateway");
    let (_, caller_key, caller) = key(folder, "caller");
    let token_file = file(folder, "token", TOKEN);
    let token = Secret::word("the token", TOKEN);
    let traced = |args: &[&str]| {
        let mut command = program(args);
        command.env("RUST_LOG", "trace");
        command
    };
    let backend = Backend::start().await;
    let [may, may_too] = [gateway_key, caller_key.clone()].map(|key| key.public().to_string());
    let mut exposed = Running::run(traced(&[
        "expose",
        &backend.address(),
        "--bind",
        "127.0.0.1:0",
        "--tcp",
        "127.0.0.1:0",
        "--key-file",
        &server_file,
        "--allow",
        &may,
        "--allow",
        &may_too,
    ]));
    let ticket = exposed.line().await;
    server.is_not_in("the ticket", &ticket);
    let mut proxy = Running::run(traced(&[
        "gateway",
        &ticket,
        "--bind",
        "127.0.0.1:0",
        "--listen",
        "127.0.0.1:0",
        "--key-file",
        &gateway_file,
        "--token-file",
        &token_file,
    ]));
    let address = proxy.line().await;

    // Through the gateway, with the token, with a wrong one, and with metadata that is the caller's alone.
    let mut shown = request(b"yes");
    let bearer = format!("Bearer {TOKEN}").parse().expect("metadata");
    shown.metadata_mut().insert("proxy-authorization", bearer);
    let own = format!("Bearer {TOKEN}").parse().expect("metadata");
    shown.metadata_mut().insert("authorization", own);
    let answer = client(&address).echo(shown).await;
    answer.expect("answered");
    let mut wrong = request(b"no");
    let nearly = format!("Bearer {TOKEN}-").parse().expect("metadata");
    wrong.metadata_mut().insert("proxy-authorization", nearly);
    client(&address).echo(wrong).await.expect_err("refused");
    let screen = run([
        "top",
        &address,
        "--once",
        "--interval",
        "0.1",
        "--token-file",
        &token_file,
    ]);
    let screen = screen.await;
    assert_eq!(screen.code, Some(0), "{screen:?}");

    // With a key from the environment, over both transports, and with a value from the environment in a header.
    let hex: String = caller_key
        .to_bytes()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let mut said = String::new();
    for more in [&[][..], &["-v"]] {
        let header = "x-api-key: ${SECRET_TOKEN}";
        let args = ["call", &ticket, "tower_iroh.echo.v1.Echo/Echo", "-d", "{}"];
        let args = [&args, &["--expand-headers", "-H", header][..], more].concat();
        let mut call = traced(&args);
        call.env("IROH_SECRET", &hex).env("SECRET_TOKEN", TOKEN);
        call.stdout(std::process::Stdio::piped());
        call.stderr(std::process::Stdio::piped());
        let call = ended(call.spawn().expect("started")).await;
        said += &format!("{}{}", call.stdout, call.stderr);
    }
    assert!(said.contains("TRACE"), "{said}");

    for (name, running) in [("expose", &mut exposed), ("gateway", &mut proxy)] {
        running.signal("TERM").await;
        let log = running.all_it_said().await;
        assert!(log.contains("TRACE"), "{name}: {log}");
        for secret in [&server, &gateway, &caller, &token] {
            secret.is_not_in(name, &log);
        }
    }
    for secret in [&server, &gateway, &caller, &token] {
        secret.is_not_in("call", &said);
    }
    token.is_not_in("top", &format!("{screen:?}"));
}
