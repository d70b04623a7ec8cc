//! The node's clock. Handshakes carry its time, and a peer takes none that is older than the last it took.

use jiff::{SignedDuration, Timestamp};

use super::finding::Finding;

const CHECK: &str = "clock";
const REMEDY: &str = "run a time daemon (chrony, systemd-timesyncd): certificates, tokens and, after the clock is set \
                      back, handshakes are refused else";
/// So much apart from the API server is noticed, and so much breaks things: a certificate made now is not valid yet.
const NOTICED: SignedDuration = SignedDuration::from_secs(5);
const BROKEN: SignedDuration = SignedDuration::from_secs(60);

/// `synchronised`: as the kernel knows it.
pub(super) fn judge(synchronised: Option<bool>) -> Finding {
    match synchronised {
        Some(true) => Finding::ok(CHECK, "synchronised"),
        Some(false) => Finding::warning(CHECK, "the kernel's clock is not synchronised", REMEDY),
        None => Finding::skipped(CHECK, "the kernel does not tell whether its clock is synchronised"),
    }
}

/// The API server's `Date` header against the middle of the time that its answer took.
pub(super) fn compare(date: &str, asked: Timestamp, answered: Timestamp) -> Option<Finding> {
    let theirs = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()?;
    let ours = asked + answered.duration_since(asked) / 2;
    // The header has whole seconds.
    let apart = ours.duration_since(theirs).abs();
    let seen = format!("{} s from the API server's clock", apart.as_secs());
    Some(match apart {
        apart if apart >= BROKEN => Finding::problem(CHECK, seen, REMEDY),
        apart if apart >= NOTICED => Finding::warning(CHECK, seen, REMEDY),
        _ => Finding::ok(CHECK, seen),
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    #[test]
    fn the_servers_date_is_compared_with_the_middle() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let date = "Wed, 25 Nov 2026 02:00:00 GMT";
        for (asked, answered, expected) in [
            ("2026-11-25T01:59:59Z", "2026-11-25T02:00:01Z", Severity::Ok),
            ("2026-11-25T01:59:50Z", "2026-11-25T02:00:10Z", Severity::Ok),
            ("2026-11-25T02:00:10Z", "2026-11-25T02:00:11Z", Severity::Warning),
            ("2026-11-25T01:50:00Z", "2026-11-25T01:50:01Z", Severity::Problem),
        ] {
            let finding = compare(date, at(asked), at(answered)).unwrap();
            assert_eq!(finding.severity, expected, "{asked}: {finding:?}");
        }
        assert!(compare("yesterday", at("2026-11-25T02:00:00Z"), at("2026-11-25T02:00:00Z")).is_none());
    }

    #[test]
    fn nobody_keeping_the_clock_is_a_warning() {
        let severities = [Some(true), Some(false), None].map(|synchronised| judge(synchronised).severity);
        assert_eq!(severities, [Severity::Ok, Severity::Warning, Severity::Skipped]);
    }
}
