//! Times as people write them.

use std::time::Duration;

/// `90`, `90s`, `5m` or `1h`.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.find(|letter: char| !letter.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    let seconds = digits.parse::<u32>().ok().map(|number| u64::from(number) * factor).filter(|_| factor > 0);
    seconds.map(Duration::from_secs).ok_or_else(|| "write it like 90s, 5m or 1h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_minutes_and_hours() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), ("0s", 0)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "m", "5 m", "1.5h", "-1s", "5d", "99999999999s"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
