//! The harness of the conformance tests: one set of services, five ways to reach it.

// Not every test binary that borrows the harness uses all of it.
#![allow(dead_code, unreachable_pub, unused_imports)]

pub mod backstage;
pub mod client;
pub mod echo_metadata;
pub mod payload;
pub mod service;
pub mod tamper;
pub mod wire;
pub mod world;

pub use client::Client;
pub use world::{Arm, ClientOptions, ENCODINGS, ServerOptions, TestClient, World};
