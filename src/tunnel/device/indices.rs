//! The receiver indices that others address our sessions by: 24 unpredictable bits, unique in the device, over
//! the 8 that boringtun counts in.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use super::PeerIndex;
use super::random::Random;

/// A session slot of a peer; never used twice in a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlotId(pub(super) u32);

/// Whose session an index names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) peer: PeerIndex,
    pub(super) slot: SlotId,
}

/// All indices in use.
#[derive(Default)]
pub(super) struct Indices {
    owners: HashMap<u32, Owner, BuildHasherDefault<Spread>>,
    /// Those of another device on the same sockets.
    foreign: HashSet<u32>,
}

impl Indices {
    /// A fresh index of 24 bits for `owner`.
    pub(super) fn claim(&mut self, owner: Owner, random: &mut Random) -> u32 {
        loop {
            let index = random.index();
            if self.foreign.contains(&index) {
                continue;
            }
            if let std::collections::hash_map::Entry::Vacant(entry) = self.owners.entry(index) {
                entry.insert(owner);
                return index;
            }
        }
    }

    /// Whose the index of a message (32 bits) is.
    #[inline]
    pub(super) fn owner(&self, index: u32) -> Option<Owner> {
        self.owners.get(&(index >> 8)).copied()
    }

    /// Gives back the index (32 bits, as on the wire).
    pub(super) fn release(&mut self, index: u32) {
        self.owners.remove(&(index >> 8));
    }

    /// All in use, 24 bits each.
    pub(super) fn used(&self) -> impl Iterator<Item = u32> {
        self.owners.keys().copied()
    }

    /// Uses none of `foreign` from now on, in place of those said before.
    pub(super) fn avoid(&mut self, foreign: &[u32]) {
        self.foreign = foreign.iter().copied().collect();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }
}

/// Hashes an index by one multiplication: we choose the keys at random, so nobody can make them collide.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = (self.0 ^ u64::from(value)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use rand_core::OsRng;

    use super::*;

    #[test]
    fn indices_are_unique_and_can_be_given_back() {
        let (mut indices, mut random) = (Indices::default(), Random::new(Box::new(OsRng)));
        let owner = Owner { peer: PeerIndex(3), slot: SlotId(7) };
        let claimed: Vec<u32> = (0..20_000).map(|_| indices.claim(owner, &mut random)).collect();
        assert_eq!(indices.len(), claimed.len());
        assert!(claimed.iter().all(|index| *index < 1 << 24));
        assert_eq!(indices.owner(claimed[0] << 8 | 0x2a), Some(owner));
        indices.release(claimed[0] << 8 | 5);
        assert_eq!(indices.owner(claimed[0] << 8), None);
    }

    #[test]
    fn indices_of_another_device_are_avoided() {
        let (mut indices, mut random) = (Indices::default(), Random::new(Box::new(OsRng)));
        let foreign: Vec<u32> = (0..1 << 18).map(|index| index << 6).collect();
        indices.avoid(&foreign);
        let owner = Owner { peer: PeerIndex(3), slot: SlotId(7) };
        // By chance alone none of a thousand would be foreign once in seven million times.
        assert!((0..1000).all(|_| indices.claim(owner, &mut random) & 0x3f != 0));
    }
}
