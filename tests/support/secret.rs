//! A secret, and every form in which a log could show it.

/// The forms of one secret.
pub struct Secret {
    name: &'static str,
    forms: Vec<String>,
}

/// So many bytes of a key are enough to find it, wherever a text is cut.
const ENOUGH: usize = 9;

impl Secret {
    /// A key: as text in every base, and as Rust shows bytes, from the front and from the back.
    pub fn key(name: &'static str, bytes: &[u8; 32]) -> Self {
        let mut forms = Vec::new();
        // Each base from a byte at which its digits begin anew.
        for part in [&bytes[..ENOUGH + 1], &bytes[15..15 + ENOUGH + 1]] {
            let listed: Vec<_> = part.iter().map(|byte| byte.to_string()).collect();
            forms.push(listed.join(", "));
            forms.push(listed.join(",\n    "));
            let hex: Vec<_> = part.iter().map(|byte| format!("{byte:02x}")).collect();
            forms.extend([hex.concat(), hex.join(", 0x"), hex.join(":"), hex.join(" ")]);
            let hex: Vec<_> = part.iter().map(|byte| format!("{byte:x}")).collect();
            forms.extend([hex.join(", "), hex.join(", 0x")]);
            forms.push(part.escape_ascii().to_string());
            forms.push(based(part, 5, b"abcdefghijklmnopqrstuvwxyz234567"));
            forms.push(based(part, 5, b"ybndrfg8ejkmcpqxot1uwisza345h769"));
            forms.push(base64(part));
            forms.push(base64(part).replace('+', "-").replace('/', "_"));
        }
        Self { name, forms }
    }

    /// A word: as it is, as bytes, and in base64 at each place of a group of three.
    pub fn word(name: &'static str, word: &str) -> Self {
        let listed: Vec<_> = word.bytes().map(|byte| byte.to_string()).collect();
        let hex: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut forms = vec![word.to_owned(), listed.join(", "), hex];
        let bytes = word.as_bytes();
        forms.extend((0..3).map(|from| base64(&bytes[from..from + (bytes.len() - 3) / 3 * 3])));
        Self { name, forms }
    }

    /// Panics where the text shows it. Letters of either case are the same.
    pub fn is_not_in(&self, place: &str, text: &str) {
        let text = text.to_lowercase();
        for form in &self.forms {
            if let Some(at) = text.find(&form.to_lowercase()) {
                let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
                let line: String = text[line..].chars().take(400).collect();
                panic!("{place} shows {}: {line}", self.name);
            }
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    based(bytes, 6, digits)
}

/// The digits of `bits` bits each that the bytes determine.
fn based(bytes: &[u8], bits: u32, digits: &[u8]) -> String {
    let (mut held, mut count, mut text) = (0_u32, 0, String::new());
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        count += 8;
        while count >= bits {
            count -= bits;
            let digit = (held >> count) & ((1 << bits) - 1);
            text.push(digits[digit as usize].into());
        }
        held &= (1 << count) - 1;
    }
    text
}

#[test]
fn each_form_is_found() {
    let key: [u8; 32] = std::array::from_fn(|at| (at * 37 + 11) as u8);
    let secret = Secret::key("the key", &key);
    let word = Secret::word("the word", "correct-horse-battery");
    let hex: String = key.iter().map(|byte| format!("{byte:02X}")).collect();
    let shown = [
        hex.clone(),
        hex[30..].to_owned(),
        format!("{key:?}"),
        format!("{key:#?}"),
        format!("{key:x?}"),
        base64(&key),
        base64(&key[15..]),
        based(&key, 5, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"),
        key.escape_ascii().to_string(),
    ];
    for text in shown {
        let found = std::panic::catch_unwind(|| secret.is_not_in("a text", &format!("a {text} b")));
        assert!(found.is_err(), "{text}");
    }
    for before in ["", "a", "ab"] {
        let text = base64(format!("{before}correct-horse-battery").as_bytes());
        let found = std::panic::catch_unwind(|| word.is_not_in("a text", &text));
        assert!(found.is_err(), "{text}");
    }
    secret.is_not_in("a text", "nothing");
    word.is_not_in("a text", "correct horse battery");
}
