//! A look at a header that costs a call next to nothing.

use http::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

/// The first value of `name`, as [`HeaderMap::get`] has it.
///
/// A gRPC head or its trailers have a handful of headers. To hash a name takes longer than to compare it with those, and to parse it from a
/// string, as `get` does with one, longer still.
pub(crate) fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    const FEW: usize = 8;
    if headers.len() > FEW {
        return headers.get(name);
    }
    let mut all = headers.iter();
    all.find(|(other, _)| *other == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_or_many_it_is_the_first_value() {
        static NAME: HeaderName = HeaderName::from_static("x-name");
        let mut headers = HeaderMap::new();
        for n in 0..20 {
            assert_eq!(first(&headers, &NAME), headers.get("x-name"), "{n}");
            if n % 3 == 1 {
                headers.append(&NAME, n.into());
            }
            let other = HeaderName::try_from(format!("x-name-{n}")).expect("a name");
            headers.append(other, 0.into());
        }
        assert_eq!(first(&headers, &NAME).expect("there"), "1");
    }
}
