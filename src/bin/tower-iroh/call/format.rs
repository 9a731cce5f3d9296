//! JSON or protobuf's text format, for requests and responses.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// JSON values one after the other.
    Json,
    /// The text format, messages separated by the character 0x1E.
    Text,
}
