//! The Internet checksum (RFC 1071): sums of 16-bit words in one's complement.
//!
//! A sum is taken in the machine's byte order, which RFC 1071 section 2(B) allows; only the numbers that are
//! added by value have to be brought into network order first.

/// A running sum. Every part added but the last must have an even length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds `bytes` as words; an odd last byte is padded with zero.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<64>();
        let mut lanes = [0_u64; 8];
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            for (at, word) in words.iter().enumerate() {
                lanes[at % 8] += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let mut sum = add(self.0, lanes.into_iter().fold(0, add));
        let (words, tail) = rest.as_chunks::<4>();
        for word in words {
            sum = add(sum, u64::from(u32::from_ne_bytes(*word)));
        }
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        Self(add(sum, u64::from(u32::from_ne_bytes(last))))
    }

    /// Adds a number.
    #[must_use]
    pub fn number(self, number: u16) -> Self {
        Self(add(self.0, u64::from(number.to_be())))
    }

    /// Takes a number away again.
    #[must_use]
    pub fn without(self, number: u16) -> Self {
        self.number(!number)
    }

    /// The sum in 16 bits, as two bytes in network order.
    #[must_use]
    pub fn folded(self) -> [u8; 2] {
        self.fold().to_ne_bytes()
    }

    /// The checksum: the sum's complement, as two bytes in network order.
    #[must_use]
    pub fn checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// True if what was added carries its own right checksum.
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.fold() == u16::MAX
    }

    #[expect(clippy::cast_possible_truncation, reason = "folded until it fits")]
    fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > u64::from(u16::MAX) {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }
}

/// Addition in one's complement: the carry comes back in at the end.
fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u64::from(carry)
}

/// The sum over the addresses and the protocol, without the length, of the pseudo-header of IPv4 (RFC 9293
/// section 3.1) or IPv6 (RFC 8200 section 8.1). `addresses` are both, as they stand in the header.
#[must_use]
pub fn pseudo_header(addresses: &[u8], protocol: u8) -> Sum {
    Sum::default().bytes(addresses).number(u16::from(protocol))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().bytes(&bytes).folded(), [0xdd, 0xf2]);
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_plain_definition(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Sum::default().bytes(&bytes).folded(), naive(&bytes).to_be_bytes());
        }

        #[test]
        fn parts_add_up(bytes in prop::collection::vec(any::<u8>(), 2..300), cut in any::<prop::sample::Index>()) {
            let cut = cut.index(bytes.len()) & !1;
            let parts = Sum::default().bytes(&bytes[..cut]).bytes(&bytes[cut..]);
            prop_assert_eq!(parts.folded(), Sum::default().bytes(&bytes).folded());
        }

        #[test]
        fn a_number_taken_away_leaves_the_rest(a in 1..u16::MAX, b in any::<u16>()) {
            let sum = Sum::default().number(a).number(b).without(b);
            prop_assert_eq!(sum.folded(), a.to_be_bytes());
        }
    }
}
