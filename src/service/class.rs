//! Sizes of drawing lots. The modulus of `numgen` is a constant of its rule, so there is a chain for each *class* of counts of
//! backends: one for each count up to [`EXACT`], then [`STEPS`] for each doubling.
//!
//! A chain of a class that holds several counts draws an index below its size, and draws again where the index is free, which
//! happens at most once in `STEPS + 1` times. After [`DRAWS`] such draws it draws below the least count of the class. So with
//! `n` backends each gets 1/n of the connections, but for a part of `(1 / (STEPS + 1)) ^ DRAWS`, 1/6,561, that goes by the last draw.

/// Counts up to this have a class of their own.
const EXACT: u32 = 16;
/// Classes for each doubling of the count.
const STEPS: u32 = 8;
/// Draws below the size of the class.
pub(super) const DRAWS: usize = 4;
/// Backends that a port of a Service can have.
pub(super) const MAX_BACKENDS: usize = 65_536;

/// A class: the counts from `least` to `size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Class {
    /// Its number, from 0.
    pub(super) number: u16,
    /// The greatest count, and the modulus of the draws.
    pub(super) size: u32,
    /// The least count.
    pub(super) least: u32,
}

impl Class {
    /// The class of a count, from 1 to [`MAX_BACKENDS`]; that of the nearest of these for any other.
    #[must_use]
    pub(super) fn of(count: usize) -> Self {
        let count = u32::try_from(count.clamp(1, MAX_BACKENDS)).unwrap_or(1);
        if count <= EXACT {
            return Self { number: u16::try_from(count - 1).unwrap_or(0), size: count, least: count };
        }
        // 17..=32 is the first octave, 33..=64 the second, and so on.
        let octave = (count - 1).ilog2() - EXACT.ilog2();
        let (start, width) = (EXACT << octave, (EXACT << octave) / STEPS);
        let step = (count - 1 - start) / width;
        let number = u16::try_from(EXACT + octave * STEPS + step).unwrap_or(u16::MAX);
        Self { number, size: start + (step + 1) * width, least: start + step * width + 1 }
    }

    /// All of them, ascending.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let next = |class: &Self| {
            let count = usize::try_from(class.size).unwrap_or(usize::MAX).saturating_add(1);
            (count <= MAX_BACKENDS).then(|| Self::of(count))
        };
        std::iter::successors(Some(Self::of(1)), next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_one_class() {
        let classes: Vec<Class> = Class::all().collect();
        assert_eq!(classes.len(), 112);
        for (number, class) in classes.iter().enumerate() {
            assert_eq!(usize::from(class.number), number);
            assert_eq!(
                u64::from(class.least),
                number.checked_sub(1).map_or(1, |before| u64::from(classes[before].size) + 1)
            );
        }
        for count in 1..=MAX_BACKENDS {
            let class = Class::of(count);
            assert_eq!(class, classes[usize::from(class.number)]);
            assert!(
                (class.least..=class.size).contains(&u32::try_from(count).unwrap()),
                "{count}: {class:?}"
            );
            let free = f64::from(class.size - u32::try_from(count).unwrap()) / f64::from(class.size);
            assert!(free <= 1.0 / f64::from(STEPS + 1), "{count}: {class:?}");
        }
        assert_eq!(classes.last().map(|class| class.size), u32::try_from(MAX_BACKENDS).ok());
    }
}
