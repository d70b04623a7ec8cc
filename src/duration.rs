//! Durations as people write them, in the configuration and on the command line.

use std::time::Duration;

/// Seconds of a unit, the longest first.
const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

/// Reads `90`, `90s`, `5m`, `1h` or `30d`.
///
/// # Errors
/// What to write instead.
pub fn parse(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.find(|letter: char| !letter.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, seconds)| seconds);
    let seconds = factor.and_then(|factor| Some(u64::from(digits.parse::<u32>().ok()?) * factor));
    seconds.map(Duration::from_secs).ok_or_else(|| "write it like 90s, 5m, 1h or 30d".into())
}

/// The shortest form that [`parse`] reads back, to the second.
#[must_use]
pub fn show(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let divides = |(_, unit): &&(&str, u64)| seconds > 0 && seconds.is_multiple_of(*unit);
    let (name, unit) = UNITS.iter().find(divides).unwrap_or(&("s", 1));
    format!("{}{name}", seconds / unit)
}

/// The same form for serde: `#[serde(with = "crate::duration::text")]`.
pub mod text {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    /// As [`show`](super::show).
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::show(*duration))
    }

    /// As [`parse`](super::parse).
    ///
    /// # Errors
    /// When it is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_minutes_hours_and_days() {
        for (text, seconds) in
            [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), ("0s", 0), ("90d", 90 * 86_400)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "m", "5 m", "1.5h", "-1s", "5w", "5D", "99999999999s"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_longest_unit_that_divides_is_shown() {
        for text in ["0s", "59s", "90m", "25h", "90d", "61s"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
        assert_eq!(show(Duration::from_secs(86_400)), "1d");
        assert_eq!(show(Duration::from_millis(1500)), "1s");
    }
}
