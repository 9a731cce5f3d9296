//! The requests: read from `-d`, each given out as soon as it is complete.

use std::path::PathBuf;

use prost_reflect::{DynamicMessage, MessageDescriptor};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    format::Format,
    parse,
    split::{Piece, Splitter},
};
use crate::failure::Failure;

/// The longest text of one request that is kept while it arrives.
const MAX_TEXT: usize = 64 << 20;

/// What separates messages in the text format, as grpcurl has it.
pub(crate) const SEPARATOR: u8 = 0x1e;

/// Where requests come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    Text(String),
    StandardInput,
    File(PathBuf),
}

impl Source {
    /// Reads the value of `-d`: a text, `@` or `@-` for standard input, or `@file`.
    pub(crate) fn read(data: Option<&str>) -> Self {
        match data.map(|data| (data, data.strip_prefix('@'))) {
            None => Self::Text(String::new()),
            Some((_, Some("" | "-"))) => Self::StandardInput,
            Some((_, Some(file))) => Self::File(file.into()),
            Some((text, None)) => Self::Text(text.to_owned()),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Text(_) => "-d".to_owned(),
            Self::StandardInput => "standard input".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

/// How requests are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) format: Format,
    pub(crate) allow_unknown_fields: bool,
}

/// A source from which nothing is read yet.
pub(crate) struct OpenSource {
    source: Source,
    reader: Box<dyn AsyncRead + Send + Unpin>,
}

/// The requests, in their order.
pub(crate) struct Input {
    source: Source,
    reader: Box<dyn AsyncRead + Send + Unpin>,
    reading: Reading,
    descriptor: MessageDescriptor,
    splitter: Splitter,
    /// The text format's bytes before their separator.
    text: Vec<u8>,
    ended: bool,
    given: u64,
}

impl Input {
    /// Opens the source. The type of the requests may be known only later.
    pub(crate) async fn open(source: Source) -> Result<OpenSource, Failure> {
        let reader: Box<dyn AsyncRead + Send + Unpin> = match &source {
            Source::Text(text) => Box::new(std::io::Cursor::new(text.clone().into_bytes())),
            Source::StandardInput => Box::new(tokio::io::stdin()),
            Source::File(path) => {
                Box::new(tokio::fs::File::open(path).await.map_err(|error| {
                    Failure::failed(format!("`-d @{}`: {error}", path.display()))
                })?)
            }
        };
        Ok(OpenSource { source, reader })
    }

    pub(crate) fn new(
        OpenSource { source, reader }: OpenSource,
        descriptor: MessageDescriptor,
        reading: Reading,
    ) -> Self {
        Self {
            source,
            reader,
            reading,
            descriptor,
            splitter: Splitter::default(),
            text: Vec::new(),
            ended: false,
            given: 0,
        }
    }

    /// The next request; `None` at the end of the input.
    ///
    /// **Cancel safety.** What has arrived is kept, so the future may be dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<DynamicMessage>, Failure> {
        loop {
            let read = match self.reading.format {
                Format::Json => self.complete_json(),
                Format::Text => self.complete_text(),
            };
            if let Some(read) = read {
                self.given += 1;
                return read.map(Some).map_err(|problem| {
                    let source = self.source.name();
                    Failure::failed(format!(
                        "{source}: request {} cannot be read: {problem}",
                        self.given
                    ))
                });
            }
            if self.ended {
                return Ok(None);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        let mut chunk = vec![0; 16 << 10];
        let read = self.reader.read(&mut chunk).await.map_err(|error| {
            Failure::failed(format!("{} cannot be read: {error}", self.source.name()))
        })?;
        let bytes = &chunk[..read];
        self.ended = read == 0;
        match self.reading.format {
            Format::Json => self.splitter.push(bytes),
            Format::Text => self.text.extend_from_slice(bytes),
        }
        if self.splitter.pending().max(self.text.len()) > MAX_TEXT {
            return Err(Failure::failed(format!(
                "{}: request {} is longer than {} MiB, and its end has not come",
                self.source.name(),
                self.given + 1,
                MAX_TEXT >> 20
            )));
        }
        Ok(())
    }

    fn complete_json(&mut self) -> Option<Result<DynamicMessage, String>> {
        let piece: Piece = match self.splitter.next() {
            Some(piece) => piece,
            None if self.ended => self.splitter.finish()?,
            None => return None,
        };
        let allow = self.reading.allow_unknown_fields;
        Some(parse::json(&self.descriptor, &piece, allow))
    }

    fn complete_text(&mut self) -> Option<Result<DynamicMessage, String>> {
        let piece = match self.text.iter().position(|byte| *byte == SEPARATOR) {
            Some(at) => {
                let rest = self.text.split_off(at + 1);
                let mut piece = std::mem::replace(&mut self.text, rest);
                piece.pop();
                piece
            }
            None if self.ended && !self.text.trim_ascii().is_empty() => {
                std::mem::take(&mut self.text)
            }
            None => return None,
        };
        Some(parse::text(&self.descriptor, &piece))
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::ReflectMessage;

    use super::*;

    async fn input(text: &str, format: Format) -> Input {
        let descriptor = prost_types::Duration::default().descriptor();
        let reading = Reading {
            format,
            allow_unknown_fields: false,
        };
        let source = Input::open(Source::read(Some(text))).await;
        Input::new(source.expect("opened"), descriptor, reading)
    }

    #[test]
    fn data_is_a_text_a_file_or_standard_input() {
        assert_eq!(Source::read(None), Source::Text(String::new()));
        assert_eq!(Source::read(Some("@")), Source::StandardInput);
        assert_eq!(Source::read(Some("@-")), Source::StandardInput);
        assert_eq!(Source::read(Some("@a.json")), Source::File("a.json".into()));
        assert_eq!(Source::read(Some("{}")), Source::Text("{}".to_owned()));
    }

    #[tokio::test]
    async fn messages_come_one_after_the_other() {
        for (text, format) in [
            ("\"1s\"\n\"2s\"", Format::Json),
            ("seconds: 1\x1eseconds: 2\n", Format::Text),
        ] {
            let mut input = input(text, format).await;
            for expected in [1, 2] {
                let message = input.next().await.expect("valid").expect("a message");
                let message: prost_types::Duration = message.transcode_to().expect("a duration");
                assert_eq!(message.seconds, expected);
            }
            assert!(input.next().await.expect("valid").is_none());
        }
    }

    #[tokio::test]
    async fn a_mistake_names_the_source_and_the_request() {
        let mut input = input("\"1s\" \"x\"", Format::Json).await;
        input.next().await.expect("valid");
        let error = input.next().await.expect_err("wrong").to_string();
        assert!(
            error.starts_with("error: -d: request 2 cannot be read: line 1, column "),
            "{error}"
        );
    }
}
