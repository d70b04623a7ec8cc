//! The end of a generated ConfigMap's name, as Kustomize makes it: pods that use the ConfigMap start anew when its
//! content changes, because its name does.

use std::fmt::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const LENGTH: usize = 10;

/// `name` with the hash of its data behind it. (kustomize, `api/hasher/hasher.go`)
pub(super) fn named(name: &str, data: &Value) -> String {
    // It hashes before there is a name.
    let content = json!({"data": data, "kind": "ConfigMap", "name": ""}).to_string();
    let digest = Sha256::digest(as_go_escapes(&content));
    let mut hex = String::new();
    for byte in digest {
        write!(hex, "{byte:02x}").expect("a String takes any text");
    }
    let suffix: String = hex.chars().take(LENGTH).map(readable).collect();
    format!("{name}-{suffix}")
}

/// Whether `name` is `base` with a hash behind it.
pub(super) fn is_named(name: &str, base: &str) -> bool {
    let rest = name.strip_prefix(base).and_then(|rest| rest.strip_prefix('-'));
    let is_hash = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    rest.is_some_and(|hash| hash.len() == LENGTH && hash.chars().all(is_hash))
}

/// Go's JSON is safe inside HTML.
fn as_go_escapes(json: &str) -> String {
    let escapes = [
        ('<', "\\u003c"),
        ('>', "\\u003e"),
        ('&', "\\u0026"),
        ('\u{2028}', "\\u2028"),
        ('\u{2029}', "\\u2029"),
    ];
    escapes.iter().fold(json.to_owned(), |text, (letter, escape)| text.replace(*letter, escape))
}

/// No vowels and none of what looks like them, so that no word comes out.
fn readable(letter: char) -> char {
    match letter {
        '0' => 'g',
        '1' => 'h',
        '3' => 'k',
        'a' => 'm',
        'e' => 't',
        other => other,
    }
}
