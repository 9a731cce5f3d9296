//! The requests: read from `-d`, each given out as soon as it is complete.

use std::{io::Read, path::PathBuf};

use prost_reflect::{DynamicMessage, MessageDescriptor};
use tokio::sync::{Mutex, mpsc};

use super::{
    format::Format,
    parse,
    pieces::{self, Piece},
    schema::Schema,
};
use crate::failure::Failure;

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
pub(crate) struct ReadOptions {
    pub(crate) format: Format,
    pub(crate) allow_unknown_fields: bool,
}

/// The requests, in their order.
pub(crate) struct Input {
    source: Source,
    options: ReadOptions,
    pieces: mpsc::Receiver<Result<Piece, String>>,
    given: u64,
}

impl Input {
    /// Opens the source and begins to read it, one request ahead of the call.
    pub(crate) async fn open(source: Source, options: ReadOptions) -> Result<Self, Failure> {
        let reader: Box<dyn Read + Send> = match &source {
            Source::Text(text) => Box::new(std::io::Cursor::new(text.clone())),
            Source::StandardInput => Box::new(std::io::stdin()),
            Source::File(path) => {
                let file = tokio::fs::File::open(path).await.map_err(|error| {
                    Failure::failed(format!("`-d @{}`: {error}", path.display()))
                })?;
                Box::new(file.into_std().await)
            }
        };
        let (sender, pieces) = mpsc::channel(1);
        // Nobody waits for the task: what it reads may never end.
        tokio::task::spawn_blocking(move || {
            let give = |piece| sender.blocking_send(piece).is_ok();
            match options.format {
                Format::Json => pieces::json(reader, give),
                Format::Text => pieces::text(reader, give),
            }
        });
        Ok(Self {
            source,
            options,
            pieces,
            given: 0,
        })
    }

    /// The next request; `None` at the end of the input. Types in its `Any`s are learnt from the server.
    pub(crate) async fn next(
        &mut self,
        descriptor: &MessageDescriptor,
        schema: &Mutex<&mut Schema>,
    ) -> Result<Option<DynamicMessage>, Failure> {
        let Some(piece) = self.pieces.recv().await else {
            return Ok(None);
        };
        self.given += 1;
        let read = match piece {
            Ok(piece) => self.parse(&piece, descriptor, schema).await,
            Err(problem) => Err(problem),
        };
        read.map(Some).map_err(|problem| {
            let expected = match self.options.format {
                Format::Json => "a JSON object for",
                Format::Text => "the text format of",
            };
            Failure::failed(format!(
                "{}: request {} cannot be read: {problem} ({expected} {} is expected)",
                self.source.name(),
                self.given,
                descriptor.full_name()
            ))
        })
    }

    async fn parse(
        &self,
        piece: &Piece,
        descriptor: &MessageDescriptor,
        schema: &Mutex<&mut Schema>,
    ) -> Result<DynamicMessage, String> {
        /// How many types one request may add to the schema.
        const MOST: usize = 64;
        let parse = |descriptor: &MessageDescriptor| match self.options.format {
            Format::Json => parse::json(descriptor, piece, self.options.allow_unknown_fields),
            Format::Text => parse::text(descriptor, &piece.text),
        };
        let mut read = parse(descriptor);
        for _ in 0..MOST {
            let Some(name) = read.as_ref().err().and_then(|it| parse::unknown_type(it)) else {
                break;
            };
            let mut schema = schema.lock().await;
            match schema.learn_beside(name, descriptor).await {
                Some(descriptor) => read = parse(&descriptor),
                None => break,
            }
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::ReflectMessage;

    use super::*;

    fn duration() -> MessageDescriptor {
        prost_types::Duration::default().descriptor()
    }

    async fn input(text: &str, format: Format) -> Input {
        let options = ReadOptions {
            format,
            allow_unknown_fields: false,
        };
        let input = Input::open(Source::read(Some(text)), options).await;
        input.expect("opened")
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
            let mut schema = Schema::default();
            let schema = Mutex::new(&mut schema);
            let mut input = input(text, format).await;
            for expected in [1, 2] {
                let message = input
                    .next(&duration(), &schema)
                    .await
                    .expect("valid")
                    .expect("a message");
                let message: prost_types::Duration = message.transcode_to().expect("a duration");
                assert_eq!(message.seconds, expected);
            }
            assert!(
                input
                    .next(&duration(), &schema)
                    .await
                    .expect("valid")
                    .is_none()
            );
        }
    }

    #[tokio::test]
    async fn a_mistake_names_the_source_and_the_request() {
        let mut schema = Schema::default();
        let schema = Mutex::new(&mut schema);
        let mut input = input("\"1s\" \"x\"", Format::Json).await;
        input.next(&duration(), &schema).await.expect("valid");
        let error = input
            .next(&duration(), &schema)
            .await
            .expect_err("wrong")
            .to_string();
        assert!(
            error.starts_with("error: -d: request 2 cannot be read: line 1, column "),
            "{error}"
        );
    }
}
