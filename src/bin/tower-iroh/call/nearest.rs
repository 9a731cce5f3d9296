//! Which name was meant.

/// Comparing takes the product of both lengths, and no name is this long.
const LONGEST: usize = 128;

/// The name that is nearest to what was written, if one is near: a letter in three may differ.
pub(crate) fn nearest(written: &str, names: &[String]) -> Option<String> {
    if written.len() > LONGEST {
        return None;
    }
    let lower = written.to_lowercase();
    names
        .iter()
        .filter(|name| name.len() <= LONGEST)
        .map(|name| (strsim::osa_distance(&lower, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= name.chars().count().div_ceil(3))
        .min()
        .map(|(_, name)| name.clone())
}

/// The end of a sentence that says that a name is unknown: the nearest name, else the names that there are.
pub(crate) fn did_you_mean(written: &str, names: impl IntoIterator<Item = String>) -> String {
    const MOST: usize = 20;
    let names: Vec<_> = names.into_iter().collect();
    if let Some(name) = nearest(written, &names) {
        return format!("; did you mean `{name}`?");
    }
    let mut listed: Vec<_> = names
        .iter()
        .take(MOST)
        .map(|it| format!("`{it}`"))
        .collect();
    if names.len() > MOST {
        listed.push(format!("and {} more", names.len() - MOST));
    }
    match listed.is_empty() {
        true => String::new(),
        false => format!("; it has {}", listed.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let names = || ["UnaryCall", "EmptyCall"].map(String::from);
        let hint = did_you_mean("unarycal", names());
        assert_eq!(hint, "; did you mean `UnaryCall`?");
        let hint = did_you_mean("Delete", names());
        assert_eq!(hint, "; it has `UnaryCall`, `EmptyCall`");
        assert_eq!(did_you_mean("x", []), "");
        let many = (0..30).map(|number| format!("name{number}"));
        assert!(did_you_mean(&"y".repeat(1000), many).ends_with("and 10 more"));
    }
}
