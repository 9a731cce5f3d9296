//! Cuts a stream of bytes into JSON values, each as soon as it is complete.

/// One value of the input, and where it begins.
#[derive(Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: Vec<u8>,
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in bytes.
    pub(crate) column: usize,
}

/// Deeper than this the reader of the value refuses it anyway.
const MAX_DEPTH: usize = 200;

/// Finds where values end. It does not judge them: a piece that is not JSON is given out as soon as no further byte can mend it.
#[derive(Debug)]
pub(crate) struct Splitter {
    buffer: Vec<u8>,
    /// How far the buffer is scanned.
    scanned: usize,
    state: State,
    /// The closing brackets that are due.
    due: Vec<u8>,
    line: usize,
    column: usize,
    /// Line and column where the value begins.
    begin: (usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Between values.
    Between,
    /// In an object or a list.
    Nested,
    String {
        escaped: bool,
    },
    /// In a number, `true`, `false` or `null`, or in what is none of them.
    Bare,
}

impl Default for Splitter {
    fn default() -> Self {
        Self {
            buffer: Vec::new(),
            scanned: 0,
            state: State::Between,
            due: Vec::new(),
            line: 1,
            column: 1,
            begin: (1, 1),
        }
    }
}

impl Splitter {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes wait for the end of their value.
    pub(crate) fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// The next complete value.
    pub(crate) fn next(&mut self) -> Option<Piece> {
        while let Some(&byte) = self.buffer.get(self.scanned) {
            // A value without an end mark ends before what cannot belong to it.
            if self.state == State::Bare
                && (byte.is_ascii_whitespace() || b"{}[]\",:".contains(&byte))
            {
                return Some(self.cut());
            }
            if self.state == State::Between && !byte.is_ascii_whitespace() {
                self.buffer.drain(..self.scanned);
                self.scanned = 0;
                self.begin = (self.line, self.column);
            }
            self.scanned += 1;
            match byte {
                b'\n' => (self.line, self.column) = (self.line + 1, 1),
                _ => self.column += 1,
            }
            if self.is_end(byte) {
                return Some(self.cut());
            }
        }
        if self.state == State::Between {
            self.buffer.clear();
            self.scanned = 0;
        }
        None
    }

    /// What is left when the input has ended: a number, or a value that was cut short.
    pub(crate) fn finish(&mut self) -> Option<Piece> {
        (self.state != State::Between).then(|| self.cut())
    }

    /// Takes a byte of a value; whether it was the last.
    fn is_end(&mut self, byte: u8) -> bool {
        match self.state {
            State::String { escaped } => {
                match byte {
                    _ if escaped => self.state = State::String { escaped: false },
                    b'\\' => self.state = State::String { escaped: true },
                    b'"' => self.state = State::Nested,
                    _ => {}
                }
                self.state == State::Nested && self.due.is_empty()
            }
            State::Between if byte.is_ascii_whitespace() => false,
            State::Between | State::Nested => match byte {
                b'"' => {
                    self.state = State::String { escaped: false };
                    false
                }
                b'{' | b'[' => {
                    self.state = State::Nested;
                    self.due.push(if byte == b'{' { b'}' } else { b']' });
                    self.due.len() > MAX_DEPTH
                }
                b'}' | b']' => self.due.pop() != Some(byte) || self.due.is_empty(),
                b',' | b':' => self.due.is_empty(),
                _ if self.state == State::Between => {
                    self.state = State::Bare;
                    false
                }
                _ => false,
            },
            State::Bare => false,
        }
    }

    fn cut(&mut self) -> Piece {
        let rest = self.buffer.split_off(self.scanned);
        let text = std::mem::replace(&mut self.buffer, rest);
        self.scanned = 0;
        self.state = State::Between;
        self.due.clear();
        Piece {
            text,
            line: self.begin.0,
            column: self.begin.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Cuts a text that comes in chunks of the given size.
    fn cut(text: &str, chunk: usize) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut pieces = Vec::new();
        for chunk in text.as_bytes().chunks(chunk) {
            splitter.push(chunk);
            pieces.extend(std::iter::from_fn(|| splitter.next()));
        }
        pieces.extend(splitter.finish());
        let text = |piece: Piece| String::from_utf8_lossy(&piece.text).into_owned();
        pieces.into_iter().map(text).collect()
    }

    #[test]
    fn values_follow_each_other_with_or_without_blanks() {
        let text = "{\"a\": \"}\\\"\"}{\"b\":[1,{}]}\n\n[]\"x\" 12 true{}null";
        let expected = [
            "{\"a\": \"}\\\"\"}",
            "{\"b\":[1,{}]}",
            "[]",
            "\"x\"",
            "12",
            "true",
            "{}",
            "null",
        ];
        for chunk in [1, 2, 7, 1000] {
            assert_eq!(cut(text, chunk), expected, "{chunk}");
        }
        assert!(cut(" \n ", 1).is_empty());
    }

    #[test]
    fn a_value_is_out_with_its_last_byte() {
        let mut splitter = Splitter::default();
        splitter.push(b"\n  {\"a\":");
        assert_eq!(splitter.next(), None);
        splitter.push(b"1}");
        let piece = splitter.next().expect("complete");
        assert_eq!((piece.line, piece.column), (2, 3));
        assert_eq!(piece.text, b"{\"a\":1}");
        assert_eq!((splitter.next(), splitter.pending()), (None, 0));
    }

    #[test]
    fn what_no_byte_can_mend_does_not_wait() {
        assert_eq!(cut("{\"a\":]", 1), ["{\"a\":]"]);
        assert_eq!(cut("}{}", 1), ["}", "{}"]);
        assert_eq!(cut(",", 1), [","]);
        let deep = "[".repeat(100_000);
        assert!(cut(&deep, 4096)[0].len() <= MAX_DEPTH + 1);
        assert_eq!(
            cut("{\"a\":", 1),
            ["{\"a\":"],
            "what was cut short comes at the end"
        );
    }

    proptest! {
        #[test]
        fn nothing_but_blanks_is_lost_whatever_the_chunks(text in "[ {}\\[\\]\",:a1\\\\]{0,64}", chunk in 1usize..8) {
            let whole = cut(&text, 1000);
            prop_assert_eq!(&cut(&text, chunk), &whole);
            let squeezed = |text: &str| text.replace(' ', "");
            prop_assert_eq!(squeezed(&whole.concat()), squeezed(&text));
        }
    }
}
