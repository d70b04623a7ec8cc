//! Values that their name gives away: `private_key=...`, `"presharedKey": "..."`, `Authorization: Bearer ...`.

use super::range::{REPLACEMENT, Range};

/// Names in small letters, and the least that a value behind each has to be long.
const LABELS: [(&str, usize); 31] = [
    ("privatekey", 32),
    ("private_key", 32),
    ("private-key", 32),
    ("presharedkey", 32),
    ("preshared_key", 32),
    ("preshared-key", 32),
    ("psk", 8),
    // The lines of a key file.
    ("private", 43),
    ("lane", 43),
    ("client-key-data", 32),
    ("certificate-key", 32),
    ("bearer", 16),
    ("token", 16),
    ("basic", 16),
    ("password", 8),
    ("passwd", 8),
    ("passphrase", 8),
    ("credential", 16),
    ("credentials", 16),
    ("secret", 8),
    ("secretkey", 8),
    ("secret_key", 8),
    ("secret-key", 8),
    ("secretaccesskey", 16),
    ("secret_access_key", 16),
    ("secret-access-key", 16),
    ("apikey", 16),
    ("api_key", 16),
    ("api-key", 16),
    ("accesstoken", 16),
    ("clientsecret", 8),
];
/// Most characters between a name and its value: quotes, a colon, spaces.
const BETWEEN: usize = 8;

/// Notes every value. What is in a value is not looked at again.
pub(super) fn find(content: &[u8], found: &mut Vec<Range>) {
    let mut at = 0;
    while at < content.len() {
        let labels = LABELS.iter().filter(|(label, _)| starts_with(&content[at..], label));
        let values = labels.filter_map(|(label, least)| value(content, at + label.len(), *least));
        match values.max_by_key(|range| range.1) {
            Some(range) => {
                found.push(range);
                at = range.1;
            }
            None => at += 1,
        }
    }
}

fn starts_with(text: &[u8], label: &str) -> bool {
    text.get(..label.len()).is_some_and(|start| start.eq_ignore_ascii_case(label.as_bytes()))
}

fn value(content: &[u8], behind: usize, least: usize) -> Option<Range> {
    let rest = &content[behind..];
    let gap = rest.iter().take(BETWEEN).take_while(|byte| b"\"'\\:= \t".contains(byte)).count();
    if gap == 0 {
        return None;
    }
    let (from, length) = block(&rest[gap..]).unwrap_or_else(|| (0, word(&rest[gap..])));
    let from = behind + gap + from;
    (length >= least).then_some((from, from + length))
}

/// All up to what ends a value.
fn word(text: &[u8]) -> usize {
    length(text, |rest| rest[0].is_ascii_whitespace() || b"\"',}]\\".contains(&rest[0]))
}

/// Length of what stands before an end, or before what was taken out.
fn length(text: &[u8], is_end: impl Fn(&[u8]) -> bool) -> usize {
    let ends = |at: &usize| is_end(&text[*at..]) || text[*at..].starts_with(REPLACEMENT);
    let length = (0..text.len()).find(ends).unwrap_or(text.len());
    #[cfg(test)]
    super::pattern::tests::looked_at(length);
    length
}

/// A block of YAML, `|` or `>` and lines that are indented, also where their ends are escaped: start and length.
fn block(text: &[u8]) -> Option<Range> {
    let head = text.iter().take_while(|byte| b"|>+-0123456789".contains(byte)).count();
    let start = head + newline(&text[head..]);
    let indent = |at: usize| text[at..].iter().take_while(|byte| **byte == b' ').count();
    if head == 0 || !b"|>".contains(&text[0]) || start == head || indent(start) == 0 {
        return None;
    }
    let (mut at, mut end) = (start, start);
    while indent(at) > 0 {
        end = at + line(&text[at..]);
        at = end + newline(&text[end..]);
        if at == end {
            break;
        }
    }
    let from = start + indent(start);
    Some((from, end - from))
}

/// Length of a line without its end; a quote ends the text that it is in.
fn line(text: &[u8]) -> usize {
    length(text, |rest| rest[0] == b'"' || newline(rest) > 0)
}

/// Length of the end of a line that stands here.
fn newline(text: &[u8]) -> usize {
    let ends: [&[u8]; 4] = [b"\n", b"\r\n", b"\\n", b"\\r\\n"];
    ends.into_iter().find(|end| text.starts_with(end)).map_or(0, <[u8]>::len)
}

#[cfg(test)]
mod tests {
    use super::super::pattern::tests::found_by;
    use super::*;

    fn found(text: &str) -> Vec<&str> {
        found_by(find, text)
    }

    #[test]
    fn values_with_telling_names_go() {
        let key = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=";
        for text in [
            format!("PrivateKey = {key}\n"),
            format!("preshared_key={key}"),
            format!("{{\"presharedKey\": \"{key}\"}}"),
            format!("{{\\\"privateKey\\\":\\\"{key}\\\"}}"),
            format!("lane {key}"),
            format!("authorization: bearer {key}"),
        ] {
            assert_eq!(found(&text), [key], "{text}");
        }
    }

    #[test]
    fn what_only_mentions_them_stays() {
        for text in [
            "\"presharedKey\": false",
            "lanes=4",
            "secretName: a-name-of-a-secret",
            "\"public_key\": \"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=\"",
            "the token is not valid",
        ] {
            assert!(found(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn values_are_taken_whole() {
        for (text, value) in [
            ("token: K10abcdef0123456789::server:pass-word", "K10abcdef0123456789::server:pass-word"),
            ("password: p@ssw0rd-123\nnext: 1", "p@ssw0rd-123"),
            ("{\"secret\": \"Sup3rS3cret!pw\"}", "Sup3rS3cret!pw"),
            ("psk=hunter22!", "hunter22!"),
            ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG+bPx", "wJalrXUtnFEMI/K7MDENG+bPx"),
            ("certificate-key: 0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef"),
            ("password: |\n  one two\n  three\nnext: 1", "one two\n  three"),
            ("password: >-\n    one two three\n", "one two three"),
            ("{\"x\": \"password: |\\n  one two\\n  three\\nnext\"}", "one two\\n  three"),
        ] {
            assert_eq!(found(text), [value], "{text}");
        }
    }

    #[test]
    fn what_was_taken_out_is_not_found_again() {
        for text in ["password: [redacted]", "password: |\n  [redacted]\n", "token=x-[redacted]"] {
            assert!(found(text).is_empty(), "{text}");
        }
    }
}
