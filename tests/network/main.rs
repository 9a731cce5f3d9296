//! What networks do, on purpose: partitions, moves, black holes, relays, NATs. The hosts are those of [`tower_iroh_lab`], the
//! services, clients and endpoints are real.
//!
//! Where hosts can't be had their cases are reported as ignored, by name; those over the transport in memory run anywhere.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]

use std::process::ExitCode;

use tower_iroh_lab::{Case, suite};

mod address;
mod black_hole;
mod dual;
mod memory;
mod nat;
mod partition;
mod path_change;
mod place;
mod relay;
#[expect(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the stack's tests need more of it"
)]
#[path = "../stack/support.rs"]
mod support;
mod traffic;

fn main() -> ExitCode {
    // With `RUST_LOG=iroh=debug` and the like.
    if let Ok(told) = tracing_subscriber::EnvFilter::try_from_default_env() {
        let told = tracing_subscriber::fmt().with_env_filter(told);
        told.with_writer(std::io::stderr).init();
    }
    let cases = [
        partition::cases(),
        path_change::cases(),
        address::cases(),
        black_hole::cases(),
        relay::cases(),
        nat::cases(),
        dual::cases(),
        memory::cases(),
    ];
    suite(cases.into_iter().flatten().collect::<Vec<Case>>())
}
