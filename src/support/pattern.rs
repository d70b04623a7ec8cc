//! What private keys and tokens of anybody look like.

use super::filter::{Range, widen};

/// Notes every one.
pub(super) fn find(content: &[u8], found: &mut Vec<Range>) {
    for at in 0..content.len() {
        let rest = &content[at..];
        let length = match rest[0] {
            b'-' => pem(rest),
            b'e' => jwt(rest),
            _ => None,
        };
        found.extend(length.map(|length| (at, at + length)));
        found.extend(bootstrap_token(content, at));
    }
}

/// `-----BEGIN ... PRIVATE KEY-----` to its end line, or to the end of all where that is cut off.
fn pem(text: &[u8]) -> Option<usize> {
    /// Longer than any name of a kind of key.
    const NAME: usize = 64;
    const END: &[u8] = b"PRIVATE KEY-----";
    let rest = text.strip_prefix(b"-----BEGIN ")?;
    let head = position(&rest[..rest.len().min(NAME)], END)? + b"-----BEGIN ".len() + END.len();
    let body = &text[head..];
    let end = position(body, b"-----END ")
        .and_then(|start| Some(start + position(&body[start..], END)? + END.len()));
    Some(end.map_or(text.len(), |end| head + end))
}

/// Three words of base64 with dots between, of which the first is a JSON object (RFC 7519).
fn jwt(text: &[u8]) -> Option<usize> {
    /// No header and no claims are shorter.
    const PART: usize = 10;
    if !text.starts_with(b"eyJ") {
        return None;
    }
    let word = |text: &[u8]| text.iter().take_while(|byte| is_url_safe(**byte)).count();
    let header = word(text);
    let claims = text.get(header).filter(|dot| **dot == b'.').map(|_| word(&text[header + 1..]))?;
    let signed = header + 1 + claims;
    if header < PART || claims < PART || text.get(signed) != Some(&b'.') {
        return None;
    }
    Some(signed + 1 + word(&text[signed + 1..]))
}

/// A bootstrap token of kubeadm, `[a-z0-9]{6}.[a-z0-9]{16}`, with `at` on its dot. Numbers look alike, so it has letters.
fn bootstrap_token(content: &[u8], at: usize) -> Option<Range> {
    if content[at] != b'.' {
        return None;
    }
    let range = widen(content, (at, at + 1), |byte| byte.is_ascii_alphanumeric());
    let small = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let (id, secret) = (&content[range.0..at], &content[at + 1..range.1]);
    let shaped = id.len() == 6 && secret.len() == 16 && id.iter().chain(secret).all(small);
    let letters = secret.iter().any(u8::is_ascii_lowercase);
    (shaped && letters).then_some(range)
}

fn is_url_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn position(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What `find` finds in a text.
    pub(in super::super) fn found_by(find: fn(&[u8], &mut Vec<Range>), text: &str) -> Vec<&str> {
        let mut ranges = Vec::new();
        find(text.as_bytes(), &mut ranges);
        ranges.into_iter().map(|(from, to)| &text[from..to]).collect()
    }

    fn found(text: &str) -> Vec<&str> {
        found_by(find, text)
    }

    #[test]
    fn private_keys_in_pem_go_whole() {
        let key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----";
        assert_eq!(found(&format!("a {key}\n b")), [key]);
        let escaped = key.replace('\n', "\\n");
        assert_eq!(found(&format!("{{\"k\": \"{escaped}\"}}")), [escaped.as_str()]);
        let cut = "-----BEGIN PRIVATE KEY-----\nMHcCAQEE";
        assert_eq!(found(cut), [cut]);
        assert!(found("-----BEGIN CERTIFICATE-----\nMHcCAQEE\n-----END CERTIFICATE-----").is_empty());
    }

    #[test]
    fn tokens_go_and_words_with_dots_stay() {
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl";
        assert_eq!(found(&format!("token \"{jwt}\",")), [jwt]);
        assert!(found("eyJhbGciOiJSUzI1NiJ9 alone").is_empty());
        assert_eq!(found("join --token abcdef.0123456789abcdef now"), ["abcdef.0123456789abcdef"]);
        for text in ["worker.eu-central.example", "123456.1234567890123456", "xabcdef.0123456789abcdef"] {
            assert!(found(text).is_empty(), "{text}");
        }
    }
}
