//! The last thing that every byte of a bundle passes: takes out secrets, and refuses what still holds one.
//!
//! Knows this node's private keys, from the key store, in the forms that programs print bytes in; and what private keys
//! and tokens of anybody look like.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, STANDARD};
use selvedge_keys::{KEY_LEN, PrivateKey};
use zeroize::Zeroizing;

use super::range::{REPLACEMENT, Range, widen};
use super::{label, pattern};

/// No file of the store is larger.
const MAX_FILE: usize = 16 << 10;
/// Characters of a key in base64, with padding.
const BASE64_LEN: usize = 44;

/// What still held a secret after all that was found was taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("left out: it holds a secret that could not be taken out")]
pub struct Refused;

/// Bytes that are a secret, wherever they stand.
struct Needle {
    bytes: Zeroizing<Vec<u8>>,
    /// Upper and lower case are the same.
    fold: bool,
    /// What it is written in: a match takes such characters on both sides with it.
    around: fn(u8) -> bool,
}

/// Knows the secrets. Wiped from memory on drop; shows nothing of them.
#[derive(Default)]
pub struct Filter {
    needles: Vec<Needle>,
    keys: Vec<Zeroizing<[u8; KEY_LEN]>>,
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filter({} needles)", self.needles.len())
    }
}

impl Filter {
    /// One that knows the keys in `store`, also those of files that are damaged or left over; and, where some cannot be
    /// read, why. No store has no keys.
    #[must_use]
    pub fn load(store: &Path) -> (Self, Option<String>) {
        let mut filter = Self::default();
        let mut blind = None;
        let files = match std::fs::read_dir(store) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return (filter, Some(format!("the key store cannot be read: {error}"))),
        };
        for file in files {
            match read(&file) {
                Ok(content) => filter.learn(&content),
                Err(error) => blind = Some(format!("{} cannot be read: {error}", file.display())),
            }
        }
        (filter, blind)
    }

    /// Takes every word that is a key in base64 for a private one.
    fn learn(&mut self, content: &[u8]) {
        for word in content.split(|byte| !is_base64(*byte)).filter(|word| word.len() == BASE64_LEN) {
            let mut bytes = Zeroizing::new([0; KEY_LEN + 1]);
            if STANDARD.decode_slice(word, bytes.as_mut_slice()) != Ok(KEY_LEN) {
                continue;
            }
            let mut key = Zeroizing::new([0; KEY_LEN]);
            key.copy_from_slice(&bytes[..KEY_LEN]);
            self.add(&key);
            // WireGuard programs may show a key with the bits that Curve25519 does not use.
            let clamped = PrivateKey::from_bytes(*key);
            if clamped.as_bytes() != &*key {
                self.add(clamped.as_bytes());
            }
        }
    }

    fn add(&mut self, key: &[u8; KEY_LEN]) {
        let mut needle = |bytes: Vec<u8>, fold, around| {
            self.needles.push(Needle { bytes: Zeroizing::new(bytes), fold, around });
        };
        let nothing = |_| false;
        needle(key.to_vec(), false, nothing);
        needle(hex(key), true, is_hex);
        let text = Zeroizing::new(STANDARD.encode(key));
        for alphabet in [alphabet::STANDARD, alphabet::URL_SAFE] {
            let engine = GeneralPurpose::new(&alphabet, NO_PAD);
            for shift in 0..3 {
                needle(shifted(&engine, key, shift), false, is_base64);
                // As a Secret of Kubernetes has it: base64 of a text with a key in base64.
                needle(shifted(&engine, text.as_bytes(), shift), false, is_base64);
            }
        }
        self.keys.push(Zeroizing::new(*key));
    }

    /// One that knows what both know.
    #[must_use]
    pub fn with(mut self, mut other: Self) -> Self {
        self.needles.append(&mut other.needles);
        self.keys.append(&mut other.keys);
        self
    }

    /// Without its secrets, and how many they were.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn clean(&self, content: &[u8]) -> Result<(Vec<u8>, usize), Refused> {
        let found = merged(self.find(content));
        let mut clean = Vec::with_capacity(content.len());
        let mut done = 0;
        for (from, to) in &found {
            clean.extend_from_slice(&content[done..*from]);
            clean.extend_from_slice(REPLACEMENT);
            done = *to;
        }
        clean.extend_from_slice(&content[done..]);
        if self.find(&clean).is_empty() { Ok((clean, found.len())) } else { Err(Refused) }
    }

    fn find(&self, content: &[u8]) -> Vec<Range> {
        let mut found = Vec::new();
        for needle in &self.needles {
            needle.find(content, &mut found);
        }
        for key in &self.keys {
            find_numbers(content, key, 10, &mut found);
            find_numbers(content, key, 16, &mut found);
        }
        pattern::find(content, &mut found);
        label::find(content, &mut found);
        found
    }
}

impl Needle {
    fn find(&self, content: &[u8], found: &mut Vec<Range>) {
        let length = self.bytes.len();
        let is_it = |window: &[u8]| match self.fold {
            true => window.eq_ignore_ascii_case(&self.bytes),
            false => window == self.bytes.as_slice(),
        };
        let mut at = 0;
        while at + length <= content.len() {
            if !is_it(&content[at..at + length]) {
                at += 1;
                continue;
            }
            let range = widen(content, (at, at + length), self.around);
            found.push(range);
            at = range.1;
        }
    }
}

/// Ranges in order that do not touch.
fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::new();
    for (from, to) in ranges {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

fn hex(key: &[u8; KEY_LEN]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Vec::with_capacity(2 * KEY_LEN);
    key.iter().for_each(|byte| text.extend([byte >> 4, byte & 15].map(|half| DIGITS[usize::from(half)])));
    text
}

/// The characters that depend on `secret` alone when it stands `shift` bytes into something that is written in base64.
fn shifted(engine: &GeneralPurpose, secret: &[u8], shift: usize) -> Vec<u8> {
    const BITS: usize = 6;
    let mut bytes = Zeroizing::new(vec![0; shift]);
    bytes.reserve_exact(secret.len());
    bytes.extend_from_slice(secret);
    let text = Zeroizing::new(engine.encode(&*bytes));
    let (first, last) = ((shift * 8).div_ceil(BITS), (shift + secret.len()) * 8 / BITS);
    text.as_bytes()[first..last].to_vec()
}

/// The key as a list of numbers: decimal as in JSON, or hexadecimal with something between, be it `0x` or `\x`.
fn find_numbers(content: &[u8], key: &[u8; KEY_LEN], radix: u32, found: &mut Vec<Range>) {
    /// More than a byte has.
    const DIGITS: usize = 4;
    let of_number = |byte: &u8| char::from(*byte).is_digit(radix);
    let is_digit = |at: usize| content.get(at).is_some_and(of_number);
    for from in (0..content.len()).filter(|at| is_digit(*at) && (*at == 0 || !is_digit(*at - 1))) {
        let mut to = from;
        let all = key.iter().enumerate().all(|(index, byte)| {
            if index > 0 {
                to += between(&content[to..]);
            }
            let digits = content[to..].iter().take(DIGITS).take_while(|byte| of_number(byte)).count();
            let text = std::str::from_utf8(&content[to..to + digits]).ok();
            to += digits;
            text.and_then(|text| u8::from_str_radix(text, radix).ok()) == Some(*byte)
        });
        found.extend(all.then_some((from, to)));
    }
}

/// What stands between two numbers of a list, up to the digits of the second.
fn between(text: &[u8]) -> usize {
    let separators =
        text.iter().take_while(|byte| b",:;\\".contains(byte) || byte.is_ascii_whitespace()).count();
    let prefixes: [&[u8]; 3] = [b"0x", b"0X", b"x"];
    let prefix = prefixes.into_iter().find(|prefix| text[separators..].starts_with(prefix));
    separators + prefix.map_or(0, <[u8]>::len)
}

/// Both alphabets, and padding.
pub(super) fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/-_=".contains(&byte)
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_hexdigit()
}

/// The beginning of a file, in one buffer that never grows; no link is followed.
fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut file: File = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let mut content = Zeroizing::new(vec![0; MAX_FILE]);
    let mut length = 0;
    while length < content.len() {
        match file.read(&mut content[length..])? {
            0 => break,
            more => length += more,
        }
    }
    content.truncate(length);
    Ok(content)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use selvedge_keys::KeyStore;

    use super::*;

    fn key() -> [u8; KEY_LEN] {
        *PrivateKey::from_bytes(std::array::from_fn(|at| u8::try_from(at * 37 % 251).unwrap())).as_bytes()
    }

    fn filter() -> Filter {
        let mut filter = Filter::default();
        filter.learn(format!("private {}\n", STANDARD.encode(key())).as_bytes());
        filter
    }

    fn cleaned(text: &str) -> String {
        let (clean, redacted) = filter().clean(text.as_bytes()).unwrap();
        assert!(redacted > 0, "{text}");
        String::from_utf8(clean).unwrap()
    }

    #[test]
    fn every_form_of_a_key_is_taken_out() {
        let key = key();
        let hex = |separator: &str| key.map(|byte| format!("{byte:02x}")).join(separator);
        let wide = [&b"ab"[..], &key, b"more behind it"].concat();
        for form in [
            STANDARD.encode(key),
            STANDARD.encode(key).trim_end_matches('=').to_owned(),
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key),
            STANDARD.encode(&wide),
            STANDARD.encode(&wide[1..]),
            STANDARD.encode(&wide[2..]),
            hex(""),
            hex("").to_uppercase(),
            hex(":"),
            hex(" "),
            format!("[0x{}]", hex(", 0x")),
            format!("[0x{}]", hex(",0x")),
            format!("[{}]", hex(", ")),
            format!("[{}]", hex(",")),
            format!("{key:x?}"),
            format!("{key:#X?}"),
            format!("\\x{}", hex("\\x")),
            format!("\\\\x{}", hex("\\\\x")),
            format!("{key:?}"),
            format!("{key:#?}"),
            STANDARD.encode(format!("{{\"private\": \"{}\"}}", STANDARD.encode(key))),
            serde_json::to_string(&key).unwrap(),
        ] {
            let clean = cleaned(&format!("before {form} behind"));
            assert!(clean.starts_with("before ") && clean.ends_with(" behind"), "{clean}");
            assert!(clean.len() < 60, "{form} leaves {clean}");
        }
        let raw = [&b"\x00x"[..], &key, b"y"].concat();
        assert_eq!(filter().clean(&raw).unwrap(), (b"\x00x[redacted]y".to_vec(), 1));
    }

    #[test]
    fn what_still_holds_a_secret_is_refused() {
        // What is put in a secret's place makes the key whole.
        let key: [u8; KEY_LEN] = *b"0123456789!\x5bredacted\x5d!9876543210";
        let mut filter = Filter::default();
        filter.learn(STANDARD.encode(key).as_bytes());
        let pem = "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----";
        let content = [&key[..11], pem.as_bytes(), &key[21..]].concat();
        assert_eq!(filter.clean(&content), Err(Refused));
    }

    #[test]
    fn public_things_stay() {
        let public = PrivateKey::from_bytes(key()).public_key();
        let text =
            format!("{{\"publicKey\": \"{public}\", \"epoch\": 1, \"podCIDRs\": [\"10.244.0.0/24\"]}}");
        assert_eq!(filter().clean(text.as_bytes()).unwrap(), (text.into_bytes(), 0));
    }

    #[test]
    fn all_keys_of_a_store_are_known_and_also_those_of_a_damaged_file() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("keys");
        let store = KeyStore::open(&dir).unwrap();
        store.ensure(jiff::Timestamp::UNIX_EPOCH).unwrap();
        let next = store.create(2, jiff::Timestamp::UNIX_EPOCH).unwrap();
        let damaged = PrivateKey::generate().unwrap();
        let base64 = |key: &PrivateKey| STANDARD.encode(key.as_bytes());
        std::fs::write(dir.join("epoch-9.retired"), format!("junk {} junk", base64(&damaged))).unwrap();
        let first = store.load(1).unwrap().private_key;
        let (filter, blind) = Filter::load(&dir);
        assert_eq!(blind, None);
        for key in [&first, &next.private_key, &damaged] {
            assert_eq!(filter.clean(base64(key).as_bytes()).unwrap(), (REPLACEMENT.to_vec(), 1));
        }
        assert!(!format!("{filter:?}").contains(&base64(&first)[..8]));
        assert!(Filter::load(&folder.path().join("none")).1.is_none());
    }

    proptest! {
        #[test]
        fn no_form_survives_wherever_it_stands(
            key: [u8; KEY_LEN],
            before in proptest::collection::vec(any::<u8>(), 0..40),
            behind in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut filter = Filter::default();
            filter.learn(STANDARD.encode(key).as_bytes());
            let text = STANDARD.encode(key);
            let has = |content: &[u8], what: &[u8]| content.windows(what.len()).any(|window| window == what);
            let inside = STANDARD.encode([&before[..], &key, &behind].concat());
            let (clean, redacted) = filter.clean(inside.as_bytes()).unwrap();
            prop_assert_eq!((clean.as_slice(), redacted), (REPLACEMENT, 1));
            for (form, content) in [
                (&text.as_bytes()[..43], [&before[..], text.as_bytes(), &behind].concat()),
                (&key[..], [&before[..], &key, &behind].concat()),
            ] {
                prop_assert!(has(&content, form));
                // Refusing is as good.
                let clean = filter.clean(&content).map(|(clean, _)| clean).unwrap_or_default();
                prop_assert!(!has(&clean, form));
            }
        }
    }
}
