//! Which name was meant.

/// The name that is nearest to what was written, where one is near: a letter in three may be another one, swapped or missing.
pub(super) fn nearest<'a>(
    written: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // No name is this long, and comparing takes the product of both lengths.
    const LONGEST: usize = 64;
    if written.len() > LONGEST {
        return None;
    }
    let written = written.to_lowercase();
    names
        .into_iter()
        .map(|name| (strsim::osa_distance(&written, name), name))
        .filter(|(distance, name)| *distance <= name.chars().count().div_ceil(3))
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_recognised_and_another_word_is_not() {
        let names = || ["grpc", "iroh", "dual"];
        for (written, meant) in [
            ("duel", Some("dual")),
            ("DUAL", Some("dual")),
            ("iorh", Some("iroh")),
            ("grcp", Some("grpc")),
            ("quic", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, names()), meant, "{written}");
        }
        assert_eq!(nearest(&"x".repeat(1 << 20), names()), None);
    }
}
