//! What a call prints: responses, and with `-v` what grpcurl prints beside them.

use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, text_format::FormatOptions};

use super::{
    any::{Anys, find_type},
    format::Format,
    message_json::ToJson,
    pieces::SEPARATOR,
};
use crate::{
    failure::{Failure, printable},
    print,
};

/// Prints to standard output, message by message.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) emit_defaults: bool,
    pub(crate) keep_proto_names: bool,
    /// One line for each response, and nothing else on standard output.
    pub(crate) compact: bool,
    pub(crate) verbosity: u8,
    printed: u64,
}

impl Output {
    pub(crate) fn new(format: Format, compact: bool, verbosity: u8) -> Self {
        Self {
            format,
            emit_defaults: false,
            keep_proto_names: false,
            compact,
            verbosity,
            printed: 0,
        }
    }

    /// How many responses were printed.
    pub(crate) fn printed(&self) -> u64 {
        self.printed
    }

    /// Prints a response at once: whoever reads a pipe may wait for it before the next request.
    pub(crate) fn response(
        &mut self,
        message: &DynamicMessage,
        types: Vec<DescriptorPool>,
    ) -> Result<(), Failure> {
        if self.verbosity > 1 {
            let size = prost::Message::encoded_len(message);
            self.note(&format!("\nEstimated response size: {size} bytes"))?;
        }
        self.note("\nResponse contents:")?;
        let text = self.text(message, types);
        self.printed += 1;
        print::raw(&text)
    }

    fn text(&self, message: &DynamicMessage, types: Vec<DescriptorPool>) -> String {
        if self.format == Format::Json {
            let to_json = ToJson {
                types,
                emit_defaults: self.emit_defaults,
                keep_proto_names: self.keep_proto_names,
            };
            let json = to_json.message(message);
            let json = match self.compact {
                true => json.to_string(),
                false => format!("{json:#}"),
            };
            // Not all that a terminal obeys is escaped by JSON.
            return printable(&json).into_owned();
        }
        let too_deep = Anys::of(message, &types).too_deep;
        let options = FormatOptions::new()
            .pretty(!self.compact)
            .skip_default_fields(!self.emit_defaults)
            .expand_any(!too_deep);
        // The message's own types do not have what was learnt since.
        let learnt = find_type(&types, message.descriptor().full_name());
        let bytes = prost::Message::encode_to_vec(message);
        let again = learnt.and_then(|it| DynamicMessage::decode(it, bytes.as_slice()).ok());
        let text = again
            .as_ref()
            .unwrap_or(message)
            .to_text_format_with_options(&options);
        match self.printed > 0 && self.verbosity == 0 {
            true => format!("{}{text}", SEPARATOR as char),
            false => text,
        }
    }

    /// Prints what only `-v` shows.
    pub(crate) fn note(&self, text: &str) -> Result<(), Failure> {
        match (self.verbosity, self.compact) {
            (0, _) => Ok(()),
            (_, false) => print::line(text),
            (_, true) => {
                eprintln!("{}", printable(text));
                Ok(())
            }
        }
    }
}
