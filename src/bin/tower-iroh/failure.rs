//! Why a verb ended without its result, and the exit code that says so.

use std::{borrow::Cow, fmt, path::Path, process::ExitCode};

use serde_json::{Value, json};
use tonic::{Code, Status};

/// Why a verb failed. The exit codes are grpcurl's.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong: exit code 2.
    Usage(String),
    /// Something other than a call failed: exit code 1.
    Failed(String),
    /// A call ended with this status: exit code 64 + the gRPC code.
    Status {
        status: Box<Status>,
        /// The status' details as JSON, as far as their types are known.
        details: Vec<Value>,
    },
    /// The verb has said all itself; this is the exit code.
    Exit(u8),
}

impl Failure {
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(message.to_string())
    }

    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::Failed(message.to_string())
    }

    /// A file that cannot be read or written.
    pub(crate) fn file(path: &Path, error: std::io::Error) -> Self {
        Self::Failed(format!("{}: {error}", path.display()))
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Exit(code) => *code,
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
            // The codes are 0 to 16.
            Self::Status { status, .. } => 64 + status.code() as u8,
        }
    }

    /// The failure as `google.rpc.Status` in JSON; a failure outside a call is INVALID_ARGUMENT or UNKNOWN.
    pub(crate) fn json(&self) -> Value {
        let (code, message, details): (_, _, &[Value]) = match self {
            Self::Usage(message) => (Code::InvalidArgument, message.as_str(), &[]),
            Self::Failed(message) => (Code::Unknown, message.as_str(), &[]),
            Self::Status { status, details } => (status.code(), status.message(), details),
            Self::Exit(_) => (Code::Unknown, "", &[]),
        };
        json!({ "code": code as i32, "message": message, "details": details })
    }

    /// Prints the failure on standard error, and returns the program's exit code.
    pub(crate) fn report(self, json: bool) -> ExitCode {
        match json {
            _ if matches!(self, Self::Exit(_)) => {}
            true => eprintln!("{}", printable(&self.json().to_string())),
            false => eprintln!("{self}"),
        }
        ExitCode::from(self.exit_code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Failed(message) => {
                write!(f, "error: {}", printable(message))
            }
            Self::Status { status, details } => {
                // grpcurl's form, for whoever reads its output by program.
                write!(
                    f,
                    "ERROR:\n  Code: {:?}\n  Message: {}",
                    status.code(),
                    printable(status.message())
                )?;
                if !details.is_empty() {
                    f.write_str("\n  Details:")?;
                }
                for (number, detail) in details.iter().enumerate() {
                    let number = format!("  {})", number + 1);
                    let margin = format!("\n{}\t", " ".repeat(number.len()));
                    let detail = printable(&format!("{detail:#}")).replace('\n', &margin);
                    write!(f, "\n{number}\t{detail}")?;
                }
                Ok(())
            }
            Self::Exit(_) => Ok(()),
        }
    }
}

/// A text of a peer without what a terminal would obey, such as escape sequences. They are written as JSON writes them, so JSON stays JSON.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(obeyed) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match obeyed(c) {
            true => shown += &format!("\\u{:04x}", u32::from(c)),
            false => shown.push(c),
        }
    }
    shown.into()
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status {
            status: Box::new(status),
            details: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_64_and_the_code() {
        assert_eq!(Failure::from(Status::not_found("no")).exit_code(), 69);
        assert_eq!(Failure::usage("no").exit_code(), 2);
        assert_eq!(Failure::failed("no").exit_code(), 1);
    }

    #[test]
    fn a_peers_text_does_not_move_the_cursor() {
        let text = Failure::from(Status::aborted("\u{1b}[2J\n\u{9b}x")).to_string();
        assert!(text.ends_with("Message: \\u001b[2J\n\\u009bx"), "{text}");
        assert!(matches!(printable("a\tb"), Cow::Borrowed(_)));
    }

    #[test]
    fn the_text_is_grpcurls() {
        let mut failure = Failure::from(Status::not_found("no such key"));
        if let Failure::Status { details, .. } = &mut failure {
            details.push(json!({ "@type": "type.googleapis.com/a.B" }));
        }
        let text = "ERROR:\n  Code: NotFound\n  Message: no such key\n  Details:\n  1)\t{\n    \t  \"@type\": \"type.googleapis.com/a.B\"\n    \t}";
        assert_eq!(failure.to_string(), text);
        assert_eq!(failure.json()["code"], 5);
    }
}
