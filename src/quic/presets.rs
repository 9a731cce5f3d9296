//! Presets for [`iroh::Endpoint::builder`].

use iroh::{
    RelayMode,
    endpoint::{Builder, PortmapperConfig, presets},
};

pub use iroh::endpoint::presets::Preset;

use super::Tuning;

/// One machine, nothing else: bound to a free port of `127.0.0.1`, no relay, no address lookup, no port mapping.
///
/// For tests, examples and benches, which must run without a network. It takes [`Tuning::auto`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Offline;

impl Preset for Offline {
    fn apply(self, builder: Builder) -> Builder {
        let builder = presets::Minimal
            .apply(builder)
            .preset(Tuning::auto())
            .relay_mode(RelayMode::Disabled)
            .portmapper_config(PortmapperConfig::Disabled)
            .clear_ip_transports();
        match builder.bind_addr((std::net::Ipv4Addr::LOCALHOST, 0)) {
            Ok(builder) => builder,
            // An address that is spelled out in the program is valid.
            Err(error) => unreachable!("127.0.0.1:0 was refused: {error}"),
        }
    }
}
