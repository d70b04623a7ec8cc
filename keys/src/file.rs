//! What is in a key file, and its text form:
//!
//! ```text
//! selvedge-key 1
//! epoch 1
//! created 2026-01-31T12:00:00Z
//! private <44 characters of base64>
//! lane <44 characters of base64>        (none, or one line for each further lane)
//! sha256 <64 hexadecimal digits>        (of all the bytes above this line)
//! ```

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use crate::key::{KEY_LEN, PrivateKey};

/// Most bytes a key file may have.
pub(crate) const MAX_FILE: usize = 16 << 10;
/// Most lanes a key file may have beside the first.
const MAX_LANES: usize = 255;
const HEADER: &str = "selvedge-key 1";
/// `private ` or `lane `, 44 characters of base64, newline.
const KEY_LINE: usize = 8 + 44 + 1;

/// The static keys of this node of one epoch. Wiped from memory on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeKeys {
    /// Number of these keys, from 1; only grows.
    pub epoch: u64,
    /// When they were made.
    pub created: Timestamp,
    /// Key of lane 0, the one that any WireGuard peer uses.
    pub private_key: PrivateKey,
    /// Keys of the further lanes.
    pub lanes: Vec<PrivateKey>,
}

impl NodeKeys {
    /// New keys from the system's random source, for lane 0 and `lanes` further ones.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate(epoch: u64, lanes: usize, now: Timestamp) -> Result<Self, getrandom::Error> {
        let lanes = (0..lanes).map(|_| PrivateKey::generate()).collect::<Result<_, _>>()?;
        Ok(Self { epoch, created: now, private_key: PrivateKey::generate()?, lanes })
    }
}

impl fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKeys")
            .field("epoch", &self.epoch)
            .field("created", &self.created)
            .field("public_key", &self.private_key.public_key())
            .field("lanes", &self.lanes.len())
            .finish_non_exhaustive()
    }
}

/// What is wrong with the content of a file of the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Longer than any such file.
    #[error("it is longer than {MAX_FILE} bytes")]
    TooLong,
    /// Empty, as after a crash of a file system that lost the content.
    #[error("it is empty")]
    Empty,
    /// Written by a newer Selvedge, or no file of ours.
    #[error("its first line is not `{HEADER}`; was it written by a newer version?")]
    Version,
    /// The last line is missing: the file is cut short.
    #[error("it is cut short: its checksum line is missing")]
    Truncated,
    /// The content is not what was written.
    #[error("its checksum does not match its content")]
    Checksum,
    /// A line is not what the format says.
    #[error("line {0} is not as the format says")]
    Line(usize),
    /// The file holds keys of another epoch than its name says.
    #[error("it holds epoch {0}; was it renamed?")]
    Epoch(u64),
}

/// The file's content.
pub(crate) fn encode(keys: &NodeKeys) -> Zeroizing<String> {
    // Room for everything, so that no copy of a secret is left behind by growing.
    let mut text = Zeroizing::new(String::with_capacity(256 + KEY_LINE * (1 + keys.lanes.len())));
    let NodeKeys { epoch, created, .. } = keys;
    write!(text, "{HEADER}\nepoch {epoch}\ncreated {created}\n").expect("a String takes any text");
    push_key(&mut text, "private", &keys.private_key);
    keys.lanes.iter().for_each(|lane| push_key(&mut text, "lane", lane));
    let sum = checksum(text.as_bytes());
    text.push_str(&sum);
    text
}

fn push_key(text: &mut String, name: &str, key: &PrivateKey) {
    let mut base64 = Zeroizing::new([0; 44]);
    STANDARD.encode_slice(key.as_bytes(), base64.as_mut_slice()).expect("32 bytes are 44 characters");
    text.push_str(name);
    text.push(' ');
    text.push_str(std::str::from_utf8(base64.as_slice()).expect("base64 is ASCII"));
    text.push('\n');
}

/// Reads the file's content.
pub(crate) fn decode(bytes: &[u8], epoch: u64) -> Result<NodeKeys, Damage> {
    let body = checked_body(bytes)?;
    let mut lines = body.lines().zip(1..);
    let mut field = |name: &str| {
        let (line, number) = lines.next().ok_or(Damage::Truncated)?;
        let value = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '));
        value.map(|value| (value, number)).ok_or(Damage::Line(number))
    };
    field("selvedge-key")?;
    let (text, line) = field("epoch")?;
    let found: u64 = text.parse().map_err(|_| Damage::Line(line))?;
    let (text, line) = field("created")?;
    let created = text.parse().map_err(|_| Damage::Line(line))?;
    let (text, line) = field("private")?;
    let private_key = key(text).ok_or(Damage::Line(line))?;
    let lanes = lines.map(|(line, number)| {
        line.strip_prefix("lane ").and_then(key).filter(|_| number < MAX_LANES).ok_or(Damage::Line(number))
    });
    let lanes = lanes.collect::<Result<_, _>>()?;
    if found != epoch {
        return Err(Damage::Epoch(found));
    }
    Ok(NodeKeys { epoch, created, private_key, lanes })
}

/// The text above the checksum line, if that matches.
fn checked_body(bytes: &[u8]) -> Result<&str, Damage> {
    match bytes {
        [] => return Err(Damage::Empty),
        _ if bytes.len() > MAX_FILE => return Err(Damage::TooLong),
        _ if !bytes.starts_with(HEADER.as_bytes()) => return Err(Damage::Version),
        _ => {}
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Damage::Checksum)?;
    let start = text.rfind("sha256 ").ok_or(Damage::Truncated)?;
    let (body, sum) = text.split_at(start);
    if !sum.ends_with('\n') {
        return Err(Damage::Truncated);
    }
    if !body.starts_with(&format!("{HEADER}\n")) {
        return Err(Damage::Version);
    }
    if sum == checksum(body.as_bytes()) { Ok(body) } else { Err(Damage::Checksum) }
}

fn key(text: &str) -> Option<PrivateKey> {
    let mut bytes = Zeroizing::new([0; KEY_LEN + 1]);
    let length = STANDARD.decode_slice(text, bytes.as_mut_slice()).ok()?;
    let mut key: [u8; KEY_LEN] = bytes[..length].try_into().ok()?;
    let private = PrivateKey::from_bytes(key);
    key.zeroize();
    Some(private)
}

fn checksum(body: &[u8]) -> String {
    let sum = Sha256::digest(body);
    let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256 {hex}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some(lanes: usize) -> NodeKeys {
        NodeKeys::generate(3, lanes, "2026-01-31T12:00:00.5Z".parse().unwrap()).unwrap()
    }

    #[test]
    fn a_file_gives_back_what_was_written() {
        for lanes in [0, 1, 15] {
            let keys = some(lanes);
            assert_eq!(decode(encode(&keys).as_bytes(), 3), Ok(keys));
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let text = encode(&some(2));
        for length in 0..text.len() {
            let cut = decode(&text.as_bytes()[..length], 3);
            assert!(cut.is_err(), "cut after {length} of {} bytes", text.len());
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let text = encode(&some(0));
        assert_eq!(decode(b"", 3), Err(Damage::Empty));
        assert_eq!(decode(&text.as_bytes()[..40], 3), Err(Damage::Truncated));
        assert_eq!(decode(b"selvedge-key 2\n", 3), Err(Damage::Version));
        assert_eq!(decode(text.replace("key 1\n", "key 10\n").as_bytes(), 3), Err(Damage::Version));
        assert_eq!(decode(text.as_bytes(), 4), Err(Damage::Epoch(3)));
        assert_eq!(decode(&vec![b'x'; MAX_FILE + 1], 4), Err(Damage::TooLong));
    }

    #[test]
    fn debug_shows_no_secret() {
        let keys = some(1);
        let shown = format!("{keys:?}");
        for secret in [&keys.private_key, &keys.lanes[0]] {
            assert!(!shown.contains(&STANDARD.encode(secret.as_bytes())), "{shown}");
        }
        assert!(shown.contains(&keys.private_key.public_key().to_string()));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(position in 0usize..4096, bit in 0u8..8) {
            let keys = some(1);
            let mut bytes = encode(&keys).as_bytes().to_vec();
            let position = position % bytes.len();
            bytes[position] ^= 1 << bit;
            prop_assert!(decode(&bytes, 3).is_err());
        }

        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes, 1);
            let _ = decode(&[HEADER.as_bytes(), b"\n", &bytes].concat(), 1);
        }
    }
}
