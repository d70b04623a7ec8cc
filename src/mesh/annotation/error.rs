//! What can be wrong with an annotation, in words that are safe to print.

use std::fmt::{self, Write as _};

use selvedge_keys::KeyError;

/// One annotation that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{annotation}: {problem}")]
pub struct AnnotationError {
    /// Its name.
    pub annotation: &'static str,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with an annotation. Quotes are short and escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It has to be there beside `public-key`.
    #[error("is missing")]
    Missing,
    /// It makes no sense without another one.
    #[error("needs {0} beside it")]
    Needs(&'static str),
    /// It is longer than any valid value.
    #[error("has {length} bytes, more than {most}")]
    TooLong {
        /// Bytes found.
        length: usize,
        /// Bytes allowed.
        most: usize,
    },
    /// It lists too many things.
    #[error("lists more than {0}")]
    TooMany(usize),
    /// A key that no peer can have.
    #[error("{quote}: {error}")]
    Key {
        /// The text.
        quote: Quote,
        /// Why it is no key.
        error: KeyError,
    },
    /// A key of this node is listed twice.
    #[error("lists key {0} a second time")]
    RepeatedKey(Quote),
    /// A text that is not of the expected form.
    #[error("{quote} is no {expected}")]
    Form {
        /// The text.
        quote: Quote,
        /// What it should have been.
        expected: &'static str,
    },
    /// An address or prefix in a range where nobody can be reached.
    #[error("{quote} is in the {range} range")]
    Special {
        /// The text.
        quote: Quote,
        /// The range.
        range: &'static str,
    },
    /// A prefix with bits behind its length.
    #[error("{quote} has host bits set")]
    HostBits {
        /// The text.
        quote: Quote,
    },
    /// A prefix that covers everything.
    #[error("{quote} is a default route")]
    DefaultRoute {
        /// The text.
        quote: Quote,
    },
    /// Kubernetes gives a node one pod CIDR of a family.
    #[error("lists more than one prefix of a family")]
    Family,
}

/// A foreign text made safe for logs and Events: short, with control characters escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote(String);

/// Most characters of a foreign text that are quoted.
const QUOTED: usize = 48;

impl Quote {
    /// Quotes the beginning of `text`. Looks at no more of it than that.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut quote = String::from("`");
        for character in text.chars() {
            let end = quote.len();
            match character {
                '`' | '\\' => quote.extend(['\\', character]),
                ' '..='~' => quote.push(character),
                // Covers control characters and everything that could reorder or hide text on a terminal.
                _ => drop(write!(quote, "{}", character.escape_unicode())),
            }
            if quote.len() > QUOTED {
                quote.truncate(end);
                quote.push_str("...");
                break;
            }
        }
        quote.push('`');
        Self(quote)
    }
}

impl fmt::Display for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_short_and_printable() {
        let long = "x".repeat(1 << 20);
        let hostile = "a\u{1b}[31m\n\u{202e}`".repeat(1000);
        for text in [long.as_str(), &hostile, "", "`", "\0"] {
            let quote = Quote::new(text).to_string();
            assert!(quote.len() <= 60, "{} bytes: {quote}", quote.len());
            assert!(quote.chars().all(|c| c == ' ' || c.is_ascii_graphic()), "{quote}");
        }
        assert_eq!(Quote::new("10.0.0.1:x").to_string(), "`10.0.0.1:x`");
        assert_eq!(Quote::new("a\nb").to_string(), "`a\\u{a}b`");
    }
}
