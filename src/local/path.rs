//! Names inside request paths: percent-encoding of one segment (RFC 3986, section 2.1).

use std::fmt::Write as _;

/// `segment` with everything but unreserved characters percent-encoded, so that it is one segment of a path.
#[must_use]
pub fn encode(segment: &str) -> String {
    segment.bytes().fold(String::with_capacity(segment.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

/// The reverse of [`encode`]; nothing when the encoding is broken or the bytes are no UTF-8.
pub(super) fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return None };
        bytes.push(digit(*high)? << 4 | digit(*low)?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

fn digit(byte: u8) -> Option<u8> {
    let value = char::from(byte).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_name_survives(name in ".*") {
            let encoded = encode(&name);
            prop_assert!(!encoded.contains('/'));
            prop_assert_eq!(decode(&encoded), Some(name));
        }
    }

    #[test]
    fn broken_encoding_is_refused() {
        for text in ["%", "%4", "%zz", "%+1", "%ff"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
