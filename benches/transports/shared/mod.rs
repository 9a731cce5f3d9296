//! What every arm is made of, whichever process it lives in.
//!
//! The crate in `benches/tonic-iroh-transport` includes this folder by its path, so that the load, the checks,
//! the clock and the statistics of its arm are the same code as everybody else's.

pub mod cpu;
mod fault;
pub mod grpc;
pub mod harness;
pub mod load;
pub mod process;
pub mod transport;
pub mod wire;
pub mod workload;

pub use fault::{Fault, with_causes};
