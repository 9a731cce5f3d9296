//! What vendors add to a trace: opaque here.

use http::{HeaderMap, HeaderValue};

use super::TRACESTATE;

/// What of a `tracestate` is passed on: the least that the specification asks for.
pub(super) const MAX: usize = 512;

/// The lines of `tracestate` as one; of a long one the first members, which are the latest.
pub(super) fn read(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(TRACESTATE).iter();
    let first = lines.next()?;
    if lines.next().is_none() && first.len() <= MAX {
        return (!first.is_empty()).then(|| first.clone());
    }
    let lines: Vec<&[u8]> = headers
        .get_all(TRACESTATE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let mut all = lines.join(&b',');
    if all.len() > MAX {
        // A member may end right at the limit, before its comma.
        let end = all[..=MAX].iter().rposition(|byte| *byte == b',')?;
        all.truncate(end);
    }
    HeaderValue::from_bytes(&all)
        .ok()
        .filter(|all| !all.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_lines(lines: &[&str]) -> Option<HeaderValue> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(TRACESTATE, line.parse().expect("a value"));
        }
        read(&headers)
    }

    #[test]
    fn a_long_one_loses_its_last_members_whole() {
        let member = |n: usize| format!("k{n}={}", "v".repeat(97));
        let long: Vec<_> = (100..110).map(member).collect();
        let state = read_lines(&[&long.join(",")]).expect("some of it");
        assert_eq!(state, &*long[..4].join(","));
        let exact = format!("a={},b=1", "v".repeat(MAX - 2));
        assert_eq!(read_lines(&[&exact]).expect("the first"), &exact[..MAX]);
        assert_eq!(read_lines(&[&"x".repeat(MAX + 1)]), None);
    }

    #[test]
    fn lines_are_one_and_nothing_is_nothing() {
        assert_eq!(read_lines(&["a=1,b=2", "c=3"]).expect("all"), "a=1,b=2,c=3");
        assert_eq!(read_lines(&[]), None);
        assert_eq!(read_lines(&[""]), None);
    }
}
