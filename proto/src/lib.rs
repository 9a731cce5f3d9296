//! The protobuf services that tower-iroh's tests, examples and benches speak.
//!
//! [`echo`] is the smallest service with all four kinds of call, and [`EchoService`] is its one implementation,
//! so that the demo, the benches and the tests measure the same thing. [`testing`] has the shapes of gRPC's
//! public interoperability tests; what answers them lives with the conformance tests.
//!
//! Both are compiled by protox while this crate builds, so no `protoc` is needed.

mod service;

pub use service::{EchoService, MAX_MESSAGE};
/// For calls without a generated client, such as to a method that no `.proto` file has.
pub use tonic_prost::ProstCodec;

/// `tower_iroh.echo.v1`, as generated.
#[allow(missing_docs, clippy::all)]
pub mod echo {
    tonic::include_proto!("tower_iroh.echo.v1");
}

/// `tower_iroh.testing.v1`, as generated.
#[allow(missing_docs, clippy::all)]
pub mod testing {
    tonic::include_proto!("tower_iroh.testing.v1");
}

/// Both packages as an encoded `FileDescriptorSet`, for a reflection server.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
