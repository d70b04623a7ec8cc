//! Free texts of bounded size, and how they are escaped in a line.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// Most characters of a text.
const MAX_CHARS: usize = 256;
/// Most bytes of a text in a line, after escaping: what 256 characters of three bytes need.
const MAX_ESCAPED: usize = 768;
/// The last character of a text that was cut.
const CUT: char = '…';

/// A free text of an event: at most 256 characters and at most 768 bytes in its escaped form. A longer one is cut
/// at a character and ends with `…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(from = "String")]
pub struct Text(String);

impl Text {
    /// The text, after the cut.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let end = end_within(text, MAX_CHARS, MAX_ESCAPED);
        if end == text.len() {
            return Self(text.to_owned());
        }
        let end = end_within(text, MAX_CHARS - 1, MAX_ESCAPED - CUT.len_utf8());
        Self(format!("{}{CUT}", &text[..end]))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the longest beginning of `text` ends that has at most `chars` characters and `bytes` escaped bytes.
fn end_within(text: &str, chars: usize, mut bytes: usize) -> usize {
    for (at, character) in text.char_indices().take(chars) {
        let Some(left) = bytes.checked_sub(escaped_length(character)) else { return at };
        bytes = left;
    }
    text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at)
}

fn escaped_length(character: char) -> usize {
    match character {
        '"' | '\\' => 2,
        // Some of these have an escape of two bytes; six is the upper bound.
        '\0'..='\x1f' => 6,
        _ if is_hidden(character) => 6,
        _ => character.len_utf8(),
    }
}

/// Characters above the ASCII controls that a terminal acts on or does not show: DEL and the C1 controls, zero
/// width characters, line separators, and the marks that change the direction of text.
fn is_hidden(character: char) -> bool {
    matches!(
        character,
        '\u{7f}'..='\u{9f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    )
}

/// Compact JSON in which hidden characters are escaped too, so that a line can be shown on a terminal.
pub(crate) struct Escaped;

impl serde_json::ser::Formatter for Escaped {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        let mut written = 0;
        for (at, character) in text.char_indices().filter(|(_, character)| is_hidden(*character)) {
            out.write_all(&text.as_bytes()[written..at])?;
            write!(out, "\\u{:04x}", u32::from(character))?;
            written = at + character.len_utf8();
        }
        out.write_all(&text.as_bytes()[written..])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &Text) -> String {
        let mut out = Vec::new();
        text.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Escaped)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        for (text, chars) in [
            ("a".repeat(256), 256),
            ("a".repeat(257), 256),
            ("語".repeat(256), 256),
            ("🧵".repeat(10_000), 192),
            ("\0".repeat(10_000), 128),
            ("\"".repeat(10_000), 256),
        ] {
            let cut = Text::from(text.as_str());
            assert_eq!(cut.as_str().chars().count(), chars);
            assert_eq!(cut.as_str() == text, !cut.as_str().ends_with(CUT));
        }
        assert_eq!(Text::from("x".repeat(10 << 20)).as_str().len(), 255 + CUT.len_utf8());
    }

    #[test]
    fn nothing_in_a_text_acts_on_a_terminal() {
        let line = escaped(&Text::from("a\n\x1b[2J\u{9b}31m\u{7f}\u{202e}\u{feff}z"));
        assert_eq!(line, r#""a\n\u001b[2J\u009b31m\u007f\u202e\ufeffz""#);
    }

    proptest! {
        #[test]
        fn texts_are_bounded_and_come_back(text in "\\PC{0,300}|.{0,400}|[\\x00-\\u{ff}]{0,400}") {
            let text = Text::from(text);
            prop_assert!(text.as_str().chars().count() <= MAX_CHARS);
            let line = escaped(&text);
            prop_assert!(line.len() <= MAX_ESCAPED + 2, "{}", line.len());
            prop_assert_eq!(&Text::from(text.as_str()), &text, "cutting twice changes nothing");
            prop_assert_eq!(serde_json::from_str::<Text>(&line).unwrap(), text);
        }
    }
}
