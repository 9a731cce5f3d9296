//! `tower-iroh id`: makes an identity, or shows the one that there is.

use clap::Args;
use serde_json::json;

use crate::{endpoint::EndpointOptions, failure::Failure, print};

/// Make an identity, or show the one that there is
///
/// The secret key is never printed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tower-iroh id --key-file ./identity")]
pub(crate) struct Options {
    #[command(flatten)]
    endpoint: EndpointOptions,
}

pub(crate) fn run(options: Options, json: bool) -> Result<(), Failure> {
    let id = options.endpoint.key()?.public();
    let file = &options.endpoint.key_file;
    match json {
        true => print::line(json!({ "id": id.to_string(), "z32": id.to_z32(), "key_file": file })),
        false => print::line(id),
    }
}
