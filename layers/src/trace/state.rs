//! What vendors add to a trace: opaque here.

use http::{HeaderMap, HeaderValue};

use super::TRACESTATE;

/// How much of a `tracestate` is passed on: the least that the specification asks for.
pub(super) const MAX: usize = 512;

/// A member above this goes first where there is too much.
const MEMBER_MAX: usize = 128;

/// The lines of `tracestate` as one. Of a long one, as the specification asks: without the members that are long themselves, and of
/// the others the first, which are the latest.
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
        all = shortened(&all);
    }
    HeaderValue::from_bytes(&all)
        .ok()
        .filter(|all| !all.is_empty())
}

fn shortened(all: &[u8]) -> Vec<u8> {
    let members = all
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|member| (1..=MEMBER_MAX).contains(&member.len()));
    let mut kept = Vec::with_capacity(MAX);
    for member in members {
        let comma = usize::from(!kept.is_empty());
        if kept.len() + comma + member.len() > MAX {
            break;
        }
        kept.extend(&b","[..comma]);
        kept.extend(member);
    }
    kept
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
        // What ends right at the limit stays.
        let exact = [128, 128, 128, 125].map(|len| format!("k={}", "v".repeat(len - 2)));
        let exact = exact.join(",");
        assert_eq!(exact.len(), MAX);
        let state = read_lines(&[&exact, "b=1"]);
        assert_eq!(state.expect("the first"), &*exact);
    }

    #[test]
    fn of_a_long_one_the_long_members_go_first() {
        let long = |n| format!("long={}", "v".repeat(n - 5));
        let state = read_lines(&[
            "a=1",
            &long(MEMBER_MAX + 1),
            "b=2",
            &long(MAX),
            " c=3 ,, d=4",
        ]);
        assert_eq!(state.expect("the others"), "a=1,b=2,c=3,d=4");
        let all = format!("{},{}", long(MEMBER_MAX + 1), long(MAX - MEMBER_MAX - 2));
        assert_eq!(all.len(), MAX);
        assert_eq!(read_lines(&[&all]).expect("it fits"), &*all);
        assert_eq!(read_lines(&[&"x".repeat(MAX + 1)]), None);
    }

    #[test]
    fn lines_are_one_and_nothing_is_nothing() {
        assert_eq!(read_lines(&["a=1,b=2", "c=3"]).expect("all"), "a=1,b=2,c=3");
        assert_eq!(read_lines(&[]), None);
        assert_eq!(read_lines(&[""]), None);
    }
}
