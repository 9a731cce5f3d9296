use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// A configuration that was not loaded: the file cannot be read, or its text is not valid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The text is not a valid configuration. There is at least one problem; they are in the order of the text.
    #[error("{}", Lines(problems))]
    Invalid {
        /// All problems that were found, at most the first 20.
        problems: Vec<Problem>,
    },
}

impl LoadError {
    /// The most problems that are reported at a time: a file that is no text at all would have one for each byte.
    pub(super) const MOST: usize = 20;

    /// The problems with the text; none where the file could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Read { .. } => &[],
            Self::Invalid { problems } => problems,
        }
    }

    /// Adds the name of the file.
    pub(super) fn in_file(mut self, path: &Path) -> Self {
        if let Self::Invalid { problems } = &mut self {
            for problem in problems {
                problem.file = Some(path.to_owned());
            }
        }
        self
    }
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// One problem with a configuration: its place, what was found, and what is accepted.
///
/// ```
/// use tower_iroh::config::Config;
///
/// let error = Config::from_toml("[transport]\nmode = \"duel\"").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     r#"2:8: transport.mode = "duel": "grpc", "iroh" or "dual" is accepted; did you mean "dual"?"#,
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(super) file: Option<PathBuf>,
    pub(super) place: Option<(usize, usize)>,
    pub(super) key: String,
    pub(super) found: String,
    pub(super) accepted: String,
    pub(super) nearest: Option<String>,
}

impl Problem {
    /// The file; `None` for a text that came from no file.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The line, from 1; `None` for a setting that was made in code.
    pub fn line(&self) -> Option<usize> {
        self.place.map(|(line, _)| line)
    }

    /// The column in characters, from 1.
    pub fn column(&self) -> Option<usize> {
        self.place.map(|(_, column)| column)
    }

    /// The key with its tables, such as `transport.grpc.bind_address`; empty where the text is not valid TOML.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What was found, abridged: `= "duel"`, or `is not a known key`.
    pub fn found(&self) -> &str {
        &self.found
    }

    /// What is accepted there.
    pub fn accepted(&self) -> &str {
        &self.accepted
    }

    /// The valid name that is nearest to what was found, where one is near.
    pub fn nearest(&self) -> Option<&str> {
        self.nearest.as_deref()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
        }
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}:")?;
        }
        if self.file.is_some() || self.place.is_some() {
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{} ", self.key)?;
        }
        f.write_str(&self.found)?;
        if !self.accepted.is_empty() {
            write!(f, ": {}", self.accepted)?;
        }
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean {nearest}?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}
