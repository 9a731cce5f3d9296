//! gRPC clients of other makers against a plain gRPC server: directly, which is the control, and through the program's `expose` and `gateway`.
//!
//! `tests/foreign/install` installs the clients. Where one is missing its cases are reported as ignored, by name.
//!
//! ```text
//! clients      what is installed, and a running client
//! server       the server behind it all, in this process or as a child that can be killed
//! route        from a client to the server: no one between, or the program twice
//! calls        the cases of client.py and client.js
//! distant      the same over a long way that loses packets
//! curl         `buf curl`
//! web          gRPC-Web from Chromium
//! ```

// Nothing is public in a test binary.
#![allow(unreachable_pub)]

use std::process::ExitCode;

use tower_iroh_lab::side_by_side;

mod calls;
mod clients;
mod curl;
mod distant;
#[path = "../program/support.rs"]
#[expect(dead_code, reason = "the program's own tests need more of it")]
mod program;
mod route;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod web;

fn main() -> ExitCode {
    if let Some(port) = server::asked_for() {
        return server::serve(port);
    }
    let cases = [
        calls::cases(),
        distant::cases(),
        curl::cases(),
        web::cases(),
    ];
    side_by_side(cases.into_iter().flatten())
}

/// A case that runs in a runtime of its own and takes no longer than a case may.
fn case<F>(
    name: String,
    missing: Option<String>,
    run: impl FnOnce() -> F + Send + 'static,
) -> tower_iroh_lab::Case
where
    F: Future<Output = ()>,
{
    let run = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let timed = async { tokio::time::timeout(clients::PATIENCE, run()).await };
        Ok(runtime.block_on(timed)?)
    };
    tower_iroh_lab::Case::anywhere(name, run).unless(missing)
}

/// Sends a signal to a process, or with a minus before its id to its group.
fn signal(name: &str, process: &str) {
    let kill = format!("kill -{name} {process}");
    let sent = std::process::Command::new("sh")
        .args(["-c", &kill])
        .status();
    assert!(sent.is_ok_and(|status| status.success()), "{kill}");
}
