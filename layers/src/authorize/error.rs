use std::fmt;

/// A policy that cannot be: where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    line: Option<usize>,
    key: String,
    problem: String,
}

impl PolicyError {
    pub(super) fn new(
        line: Option<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self {
            line,
            key: key.into(),
            problem: problem.into(),
        }
    }

    /// The line in the TOML, from 1; `None` for a policy that was built in code.
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// The key, such as `roles.reader.methods`; empty where the text is no TOML or has not the form of a policy: the message names
    /// what is wrong then, such as an unknown field.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for PolicyError {}

/// The name in `names` that someone who wrote `wrong` most likely meant.
pub(super) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::levenshtein(wrong, name), name))
        // Half of it being other letters is no slip of the pen.
        .filter(|(distance, name)| *distance * 2 <= name.chars().count().max(2))
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_that_was_meant() {
        let names = || ["reader", "admin", "writer"].into_iter();
        assert_eq!(nearest("raeder", names()), Some("reader"));
        assert_eq!(nearest("admins", names()), Some("admin"));
        assert_eq!(nearest("operator", names()), None);
        assert_eq!(nearest("x", std::iter::empty()), None);
    }
}
