//! The configuration: every spelling of it, every mistake in it, and what is said of it in the docs.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]
#![cfg(feature = "config")]

#[path = "config/durations.rs"]
mod durations;
#[path = "config/follow.rs"]
mod follow;
#[path = "config/mistakes.rs"]
mod mistakes;
#[path = "config/pages.rs"]
mod pages;
#[path = "config/spellings.rs"]
mod spellings;

use tower_iroh::config::{Config, ConfigReader};

/// The text of MISSION's appendix, as `docs/configuration.md` has it.
pub const APPENDIX: &str = include_str!("config/appendix.toml");

/// A program that has the groups which the documents speak of.
pub fn reader() -> ConfigReader {
    Config::reader()
        .group("status", ["/cluster.v1.ClusterService/GetClusterStatus"])
        .group("monitoring", ["cluster.v1.Monitoring"])
        .group("vm_ops", ["/cluster.v1.ClusterService/CreateVm"])
}

/// What is wrong with a text, which must be something, as one reads it.
pub fn refusal(text: &str) -> String {
    match reader().from_toml(text) {
        Ok(config) => panic!("accepted:\n{text}\nas\n{config}"),
        Err(error) => error.to_string(),
    }
}
