//! Numbers as the protocol writes them.

use std::str::FromStr;

/// Decimal digits alone: `FromStr` would take a sign too.
pub(super) fn number<T: FromStr>(value: &str) -> Option<T> {
    value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok())?
}
