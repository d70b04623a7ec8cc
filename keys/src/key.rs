//! WireGuard key types: Curve25519 keys of 32 bytes, written as 44 characters of padded base64.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of every key in bytes.
pub const KEY_LEN: usize = 32;

/// Why a text or a byte string is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is not standard base64 with padding.
    #[error("key is not valid base64")]
    Base64,
    /// The key decodes to another number of bytes than 32.
    #[error("key has {0} bytes, expected 32")]
    Length(usize),
    /// A low-order point (RFC 7748, section 6.1): every Diffie-Hellman with it gives zero.
    #[error("key is a low-order point and gives no secrecy")]
    LowOrder,
    /// Another spelling of a point: the number is not below 2^255 - 19 (RFC 7748, section 5).
    #[error("key is not in canonical form")]
    NotCanonical,
}

/// A static private key (X25519, RFC 7748). Never printed, never serialized, wiped on drop. Its bytes are on the heap, because
/// moving a value leaves a copy where it was, which nobody wipes.
#[derive(Clone)]
pub struct PrivateKey(Box<[u8; KEY_LEN]>);

impl PrivateKey {
    /// A new key from the system's random source.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; KEY_LEN];
        getrandom::fill(&mut bytes)?;
        let key = Self::from_bytes(bytes);
        bytes.zeroize();
        Ok(key)
    }

    /// Takes 32 bytes as a private key, clamped as RFC 7748, section 5 says.
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; KEY_LEN]) -> Self {
        bytes[0] &= 248;
        bytes[31] &= 127;
        bytes[31] |= 64;
        let mut key = Self(Box::new([0; KEY_LEN]));
        key.0.copy_from_slice(&bytes);
        bytes.zeroize();
        key
    }

    /// The key's bytes. The caller wipes what it copies.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The public key that belongs to this private key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.to_dalek()).to_bytes())
    }

    /// The key in the type that boringtun takes; that type wipes itself too.
    #[must_use]
    pub fn to_dalek(&self) -> x25519_dalek::StaticSecret {
        x25519_dalek::StaticSecret::from(*self.0)
    }
}

impl PartialEq for PrivateKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for PrivateKey {}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

/// Every 255-bit number that is a low-order point of Curve25519 or its twist: 0, 1, the two of order 8, p - 1,
/// p and p + 1, least byte first (RFC 7748, section 6.1; https://cr.yp.to/ecdh.html#validate).
const LOW_ORDER: [[u8; KEY_LEN]; 7] = [
    small(0, 0x00, 0x00),
    small(1, 0x00, 0x00),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda,
        0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04,
        0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    small(0xec, 0xff, 0x7f),
    small(0xed, 0xff, 0x7f),
    small(0xee, 0xff, 0x7f),
];

/// The number with this first byte, last byte, and all bytes between.
const fn small(first: u8, between: u8, last: u8) -> [u8; KEY_LEN] {
    let mut bytes = [between; KEY_LEN];
    bytes[0] = first;
    bytes[KEY_LEN - 1] = last;
    bytes
}

/// A static public key: the name of a peer in WireGuard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    /// Takes 32 bytes as a public key.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Checks that the key can be a peer's: a canonical number that is no low-order point. Public keys that
    /// [`PrivateKey::public_key`] makes always are. Parsing does not check it, as other WireGuard programs take
    /// any 32 bytes; whoever believes a key that a stranger published does.
    ///
    /// # Errors
    /// [`KeyError::LowOrder`] or [`KeyError::NotCanonical`].
    pub fn check(&self) -> Result<(), KeyError> {
        let mut masked = self.0;
        masked[31] &= 0x7f;
        if LOW_ORDER.contains(&masked) {
            return Err(KeyError::LowOrder);
        }
        // 2^255 - 19 is ED, FF ... FF, 7F from its least byte on: only ED to FF in the first byte exceed it.
        let above = masked[31] == 0x7f && masked[1..31].iter().all(|byte| *byte == 0xff) && masked[0] >= 0xed;
        if masked != self.0 || above { Err(KeyError::NotCanonical) } else { Ok(()) }
    }

    /// The key in the type that boringtun takes.
    #[must_use]
    pub fn to_dalek(&self) -> x25519_dalek::PublicKey {
        x25519_dalek::PublicKey::from(self.0)
    }

    /// The first 16 hexadecimal digits of SHA-256 of the key's 32 bytes: names the key in inventories.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        Sha256::digest(self.0).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first eight characters of the base64 form, for tables and logs.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(8).collect()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A preshared key, mixed into the handshake (WireGuard paper, section 5.2). Secret like a private key.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; KEY_LEN]);

impl PresharedKey {
    /// Takes 32 bytes as a preshared key.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The key's bytes. The caller wipes what it copies.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// WireGuard's "no preshared key": 32 zero bytes.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.ct_eq(&[0; KEY_LEN]).into()
    }
}

impl PartialEq for PresharedKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for PresharedKey {}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(redacted)")
    }
}

fn decode(text: &str) -> Result<[u8; KEY_LEN], KeyError> {
    let bytes = STANDARD.decode(text).map_err(|_| KeyError::Base64)?;
    let length = bytes.len();
    bytes.try_into().map_err(|_| KeyError::Length(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_survives_its_text_form() {
        let key = PrivateKey::generate().unwrap().public_key();
        assert_eq!(key.to_string().parse(), Ok(key));
    }

    /// As `echo KEY | base64 -d | sha256sum | cut -c-16` has it.
    #[test]
    fn a_fingerprint_is_of_the_bytes() {
        assert_eq!(PublicKey::from_bytes([0; 32]).fingerprint(), "66687aadf862bd77");
        assert_eq!(PublicKey::from_bytes([7; 32]).fingerprint(), "4bb06f8e4e3a7715");
    }

    #[test]
    fn debug_hides_secrets() {
        let key = PrivateKey::from_bytes([7; 32]);
        assert_eq!(format!("{key:?}"), "PrivateKey(redacted)");
        assert_eq!(format!("{:?}", PresharedKey::from_bytes([7; 32])), "PresharedKey(redacted)");
    }

    fn hex(text: &str) -> [u8; KEY_LEN] {
        let byte = |i: usize| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap();
        std::array::from_fn(byte)
    }

    /// RFC 7748, section 6.1.
    #[test]
    fn the_rfc_vectors_hold() {
        let alice =
            PrivateKey::from_bytes(hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"));
        let bob =
            PrivateKey::from_bytes(hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
        let alice_public = hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        let bob_public = hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
        let shared = hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        assert_eq!(alice.public_key().as_bytes(), &alice_public);
        assert_eq!(bob.public_key().as_bytes(), &bob_public);
        assert_eq!(alice.to_dalek().diffie_hellman(&bob.public_key().to_dalek()).as_bytes(), &shared);
        assert_eq!(bob.to_dalek().diffie_hellman(&alice.public_key().to_dalek()).as_bytes(), &shared);
        assert_eq!(alice.public_key().check(), Ok(()));
        assert_eq!(bob.public_key().check(), Ok(()));
    }

    /// The list is right because Diffie-Hellman gives zero for each of them, whatever the top bit says.
    #[test]
    fn low_order_points_are_refused() {
        let private = PrivateKey::from_bytes([9; 32]).to_dalek();
        for point in LOW_ORDER {
            for top in [0, 0x80] {
                let mut bytes = point;
                bytes[31] |= top;
                let key = PublicKey::from_bytes(bytes);
                assert_eq!(private.diffie_hellman(&key.to_dalek()).as_bytes(), &[0; 32], "{bytes:x?}");
                assert_eq!(key.check(), Err(KeyError::LowOrder), "{bytes:x?}");
            }
        }
    }

    #[test]
    fn a_second_spelling_of_a_key_is_refused() {
        let mut bytes = *PrivateKey::from_bytes([9; 32]).public_key().as_bytes();
        bytes[31] |= 0x80;
        assert_eq!(PublicKey::from_bytes(bytes).check(), Err(KeyError::NotCanonical));
        assert_eq!(PublicKey::from_bytes(small(0xf6, 0xff, 0x7f)).check(), Err(KeyError::NotCanonical));
        assert_eq!(PublicKey::from_bytes(small(0x09, 0, 0)).check(), Ok(()), "the base point");
    }

    #[test]
    fn bad_text_is_refused() {
        assert_eq!("x".parse::<PublicKey>(), Err(KeyError::Base64));
        assert_eq!("AAAA".parse::<PublicKey>(), Err(KeyError::Length(3)));
    }
}
