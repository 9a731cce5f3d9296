//! Entries to private parsers, for `fuzz/`. No part of the API: this is built by cargo-fuzz (`cfg(fuzzing)`) and for this crate's own tests, and else not.

pub use crate::{
    quic::{copies, screen},
    tcp::farewell,
};

/// Drops what tonic cannot read of a status, as [`Channel`](crate::Channel) does.
pub fn drop_unreadable(headers: &mut http::HeaderMap) {
    crate::channel::drop_unreadable(headers);
}

#[cfg(test)]
mod tests;
