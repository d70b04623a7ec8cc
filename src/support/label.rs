//! Values that their name gives away: `private_key=...`, `"presharedKey": "..."`, `Authorization: Bearer ...`.

use super::filter::{Range, is_base64};

/// Names in small letters, and the least that a value behind each has to be long.
const LABELS: [(&str, usize); 14] = [
    ("privatekey", 32),
    ("private_key", 32),
    ("private-key", 32),
    ("presharedkey", 32),
    ("preshared_key", 32),
    ("preshared-key", 32),
    // The lines of a key file.
    ("private", 43),
    ("lane", 43),
    ("client-key-data", 32),
    ("bearer", 16),
    ("token", 16),
    ("basic", 16),
    ("password", 8),
    ("secret", 16),
];
/// Most characters between a name and its value: quotes, a colon, spaces.
const BETWEEN: usize = 8;

/// Notes every value.
pub(super) fn find(content: &[u8], found: &mut Vec<Range>) {
    for at in 0..content.len() {
        for (label, least) in LABELS {
            if starts_with(&content[at..], label)
                && let Some(range) = value(content, at + label.len(), least)
            {
                found.push(range);
            }
        }
    }
}

fn starts_with(text: &[u8], label: &str) -> bool {
    text.get(..label.len()).is_some_and(|start| start.eq_ignore_ascii_case(label.as_bytes()))
}

fn value(content: &[u8], behind: usize, least: usize) -> Option<Range> {
    let rest = &content[behind..];
    let gap = rest.iter().take(BETWEEN).take_while(|byte| b"\"'\\:= \t".contains(byte)).count();
    let length = rest[gap..].iter().take_while(|byte| is_base64(**byte) || b".~".contains(byte)).count();
    let from = behind + gap;
    (gap > 0 && length >= least).then_some((from, from + length))
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
}
