//! A listener in a system that has no room: it waits, and goes on.

use std::{fs::File, process::Command, time::Duration};

use metrics_exporter_prometheus::PrometheusBuilder;

use crate::support::{Caller, Kind, Server, until};

const CHILD: &str = "TOWER_IROH_TEST_FEW_FILES";

/// Runs itself again in a process that may open few files.
#[test]
fn no_file_descriptor_left_is_neither_an_end_nor_a_reason_to_spin() {
    if std::env::var_os(CHILD).is_some() {
        return few_files();
    }
    let me = std::env::current_exe().expect("this program");
    let status = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
        .arg(me)
        .args([
            "--exact",
            "accepting::no_file_descriptor_left_is_neither_an_end_nor_a_reason_to_spin",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .status()
        .expect("a shell");
    assert!(status.success(), "{status}");
}

fn few_files() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder).expect("the first");
    let errors = || -> u64 {
        let rendered = metrics.render();
        let line = rendered
            .lines()
            .find(|line| line.starts_with("tower_iroh_tcp_accept_errors_total "));
        line.map_or(0, |line| {
            line.rsplit(' ')
                .next()
                .expect("a number")
                .parse()
                .expect("a number")
        })
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let server = Server::start().await;
        let caller = Caller::new(Kind::Channel, &server.peer);
        let mut files = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            files.push(file);
        }
        // One descriptor for the client's side, none for the server's.
        files.pop();
        let call = tokio::spawn(async move { caller.echo(b"later").await });
        until("the first error", || errors() > 0).await;
        let before = errors();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = errors();
        assert!(
            (1..=10).contains(&(after - before)),
            "{before} and then {after} errors in half a second"
        );
        assert!(!call.is_finished());
        drop(files);
        call.await.expect("no panic").expect("answered");
    });
}
