//! Hashes of lines, and the head of a log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// A SHA-256 sum, written as 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256Sum([u8; 32]);

impl Sha256Sum {
    /// 64 zeros: stands for the line before the first.
    pub const ZERO: Self = Self([0; 32]);

    /// The sum of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The sum of all the bytes that `hasher` took.
    pub(crate) fn finish(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Sum({self})")
    }
}

impl FromStr for Sha256Sum {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Self, HeadError> {
        let digits: &[u8; 64] = text.as_bytes().try_into().map_err(|_| HeadError::Hash)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

fn digit(character: u8) -> Result<u8, HeadError> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        _ => Err(HeadError::Hash),
    }
}

impl Serialize for Sha256Sum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Sum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The number and hash of the last line of a log. Kept in another place, it is an anchor: it vouches for that line
/// and all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Number of the line, from 1; 0 for a log without lines.
    pub number: u64,
    /// Hash of the whole line without its newline; zeros for a log without lines.
    pub hash: Sha256Sum,
}

impl Head {
    /// The head of a log without lines.
    pub const EMPTY: Self = Self { number: 0, hash: Sha256Sum::ZERO };
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sha256:{}", self.number, self.hash)
    }
}

/// Why a text is not a [`Head`] or a [`Sha256Sum`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The text does not have the form of a head.
    #[error("not a head of an audit log; write it as `<number> sha256:<64 hexadecimal digits>`")]
    Form,
    /// The hash is not 64 lowercase hexadecimal digits.
    #[error("the hash is not 64 lowercase hexadecimal digits")]
    Hash,
}

impl FromStr for Head {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Self, HeadError> {
        let (number, hash) = text.split_once(" sha256:").ok_or(HeadError::Form)?;
        Ok(Self { number: number.parse().map_err(|_| HeadError::Form)?, hash: hash.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_written_and_read() {
        let head = Head { number: 7, hash: Sha256Sum::of(b"") };
        let text = "7 sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(head.to_string(), text);
        assert_eq!(text.parse(), Ok(head));
        let json = serde_json::to_string(&head).unwrap();
        assert_eq!(json, format!("{{\"number\":7,\"hash\":\"{}\"}}", head.hash));
        assert_eq!(serde_json::from_str::<Head>(&json).unwrap(), head);
        assert_eq!("7".parse::<Head>(), Err(HeadError::Form));
        assert_eq!("7 sha256:AB".parse::<Head>(), Err(HeadError::Hash));
        assert_eq!(text.to_uppercase().replace("SHA", "sha").parse::<Head>(), Err(HeadError::Hash));
    }
}
