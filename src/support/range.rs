//! The places of secrets in a text.

/// What stands in a secret's place.
pub(super) const REPLACEMENT: &[u8] = b"[redacted]";
/// Where something was found: from, to.
pub(super) type Range = (usize, usize);

/// The range with the characters of a kind on both sides of it.
pub(super) fn widen(content: &[u8], (from, to): Range, kind: impl Fn(u8) -> bool) -> Range {
    let before = content[..from].iter().rev().take_while(|byte| kind(**byte)).count();
    let behind = content[to..].iter().take_while(|byte| kind(**byte)).count();
    (from - before, to + behind)
}
