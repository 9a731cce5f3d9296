//! Cuts the input into requests, each as soon as its last byte is read.

use std::{
    cell::Cell,
    io::{self, BufRead as _, BufReader, Read},
    rc::Rc,
};

use serde_json::value::RawValue;

/// The longest text of one request.
const MAX_TEXT: usize = if cfg!(test) { 1 << 20 } else { 64 << 20 };

/// What separates messages in the text format, as grpcurl has it.
pub(crate) const SEPARATOR: u8 = 0x1e;

/// One request as text, and where it begins in the input.
#[derive(Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: Box<str>,
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in bytes.
    pub(crate) column: usize,
}

/// Gives out JSON values, until one is wrong or `give` returns that no more are wanted.
pub(crate) fn json(reader: impl Read, give: impl Fn(Result<Piece, String>) -> bool) {
    let place = Rc::new(Cell::new(Place {
        line: 1,
        column: 1,
        value: None,
    }));
    let reader = Tracked {
        reader: BufReader::new(reader),
        place: place.clone(),
    };
    let values = serde_json::Deserializer::from_reader(reader).into_iter::<Box<RawValue>>();
    for value in values {
        let now = place.get();
        place.set(Place { value: None, ..now });
        let value = value.map_err(|error| match error.line() {
            0 => error.to_string(),
            line => format!(
                "line {line}, column {}: {}",
                error.column(),
                without_place(&error)
            ),
        });
        let is_wrong = value.is_err();
        let piece = value.map(|text| {
            // After a number the byte behind it is read too.
            let begin = now.value.unwrap_or(Begin {
                line: now.line,
                column: now.column,
                length: 0,
            });
            Piece {
                text: text.into(),
                line: begin.line,
                column: begin.column,
            }
        });
        if !give(piece) || is_wrong {
            return;
        }
    }
}

/// The error without its place, which may count from elsewhere.
pub(crate) fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

/// Gives out messages of the text format.
pub(crate) fn text(reader: impl Read, give: impl Fn(Result<Piece, String>) -> bool) {
    let mut reader = BufReader::new(reader);
    loop {
        let mut bytes = Vec::new();
        let read = (&mut reader)
            .take(MAX_TEXT as u64 + 1)
            .read_until(SEPARATOR, &mut bytes);
        let is_last = bytes.pop_if(|last| *last == SEPARATOR).is_none();
        let piece = match read {
            Err(error) => Err(error.to_string()),
            Ok(_) if bytes.len() > MAX_TEXT => Err(too_long().to_string()),
            Ok(_) if is_last && bytes.trim_ascii().is_empty() => return,
            Ok(_) => String::from_utf8(bytes).map_err(|error| error.to_string()),
        };
        let piece = piece.map(|text| Piece {
            text: text.into(),
            line: 1,
            column: 1,
        });
        let is_wrong = piece.is_err();
        if !give(piece) || is_wrong || is_last {
            return;
        }
    }
}

fn too_long() -> io::Error {
    io::Error::other(format!(
        "it is longer than {} MiB, and its end has not come",
        MAX_TEXT >> 20
    ))
}

/// What is read so far.
#[derive(Clone, Copy, Debug)]
struct Place {
    line: usize,
    column: usize,
    /// The value that is being read.
    value: Option<Begin>,
}

#[derive(Clone, Copy, Debug)]
struct Begin {
    line: usize,
    column: usize,
    length: usize,
}

/// Notes where each value begins, and ends one that is too long.
struct Tracked<R> {
    reader: BufReader<R>,
    place: Rc<Cell<Place>>,
}

impl<R: Read> Read for Tracked<R> {
    /// Reads one byte, as serde_json asks for: with more, the place would be that of what comes after the value.
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let Some(to) = to.get_mut(..1) else {
            return Ok(0);
        };
        if self.reader.read(to)? == 0 {
            return Ok(0);
        }
        let mut place = self.place.get();
        if let Some(value) = &mut place.value {
            value.length += 1;
            if value.length > MAX_TEXT {
                return Err(too_long());
            }
        } else if !to[0].is_ascii_whitespace() {
            place.value = Some(Begin {
                line: place.line,
                column: place.column,
                length: 1,
            });
        }
        match to[0] {
            b'\n' => (place.line, place.column) = (place.line + 1, 1),
            _ => place.column += 1,
        }
        self.place.set(place);
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a text that comes in chunks of the given size.
    struct Chunks<'a>(&'a [u8], usize);

    impl Read for Chunks<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(to.len());
            self.0.read(&mut to[..length])
        }
    }

    fn cut(text: &str, chunk: usize) -> Vec<Result<Piece, String>> {
        let pieces = Cell::new(Vec::new());
        json(Chunks(text.as_bytes(), chunk), |piece| {
            let mut all = pieces.take();
            all.push(piece);
            pieces.set(all);
            true
        });
        pieces.into_inner()
    }

    #[test]
    fn values_follow_each_other_with_or_without_blanks() {
        let text = "{\"a\": \"}\\\"\"}{\"b\":[1,{}]}\n\n []\"x\" 12 true{}null";
        let expected = [
            ("{\"a\": \"}\\\"\"}", 1, 1),
            ("{\"b\":[1,{}]}", 1, 13),
            ("[]", 3, 2),
            ("\"x\"", 3, 4),
            ("12", 3, 8),
            ("true", 3, 11),
        ];
        for chunk in [1, 2, 7, 1000] {
            let pieces = cut(text, chunk);
            assert_eq!(pieces.len(), 8);
            for (piece, expected) in pieces.iter().zip(expected) {
                let piece = piece.as_ref().expect("valid");
                assert_eq!((&*piece.text, piece.line, piece.column), expected);
            }
        }
        assert!(cut(" \n ", 1).is_empty());
    }

    #[test]
    fn a_value_is_out_with_its_last_byte_and_a_mistake_ends_the_input() {
        // Reading on after a complete value would wait for more input; here it panics.
        struct Endless<'a>(&'a [u8]);
        impl Read for Endless<'_> {
            fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
                assert!(!self.0.is_empty(), "nothing more comes");
                self.0.read(to)
            }
        }
        json(Endless(b"{\"a\":1}"), |piece| {
            assert_eq!(&*piece.expect("valid").text, "{\"a\":1}");
            false
        });
        for (text, says) in [
            ("{\"a\":]{}", "line 1, column 6: expected value"),
            ("\n}{}", "line 2, column 1: expected value"),
            ("{\"a\":", "line 1, column 5: EOF"),
        ] {
            let pieces = cut(text, 1);
            assert_eq!(pieces.len(), 1, "{pieces:?}");
            let problem = pieces[0].as_ref().expect_err(text);
            assert!(problem.starts_with(says), "{problem}");
        }
    }

    #[test]
    fn a_value_without_an_end_is_bounded() {
        let refused = |piece: Result<Piece, String>| {
            let problem = piece.expect_err("endless");
            assert!(problem.contains("1 MiB"), "{problem}");
            true
        };
        json(b"\"".chain(io::repeat(b'x')), refused);
        text(io::repeat(b'x'), refused);
    }

    proptest! {
        #[test]
        fn the_chunks_do_not_matter(text in "[ {}\\[\\]\",:a1\\\\\n]{0,64}", chunk in 1usize..8) {
            prop_assert_eq!(cut(&text, chunk), cut(&text, 1000));
        }
    }
}
