//! WireGuard's times and limits (paper, section 6.1), and those of this device.

use std::time::{Duration, Instant};

/// A session of which we are the initiator is renewed when used after this age.
pub(super) const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// A session older than this carries nothing.
pub(super) const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// How long handshakes are tried before packets that wait are dropped.
pub(super) const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// Time between two initiations to one key of a peer.
pub(super) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// The same while sessions of another device wait to be replaced.
pub(super) const HURRIED_TIMEOUT: Duration = Duration::from_millis(400);
/// Data that was received is answered with a keepalive after this time without anything to send.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages sent on a session until it is renewed.
pub(super) const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Message counters from here on are never sent nor taken.
pub(super) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// Retries come up to this much late, so that two peers do not stay in step.
pub(super) const MAX_JITTER: Duration = Duration::from_millis(333);

/// Renewals come up to this much late: two ends that began at once each have a session to renew, and one
/// renewal does for both.
pub(super) const REKEY_JITTER: Duration = Duration::from_secs(5);

/// How late a timer may fire: all peers are looked at this often while there is anything to time.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Pause after [`REKEY_ATTEMPT_TIME`] of unanswered attempts at a session that is not needed to reach the peer.
pub(super) const REST: Duration = Duration::from_secs(30);
/// Shortest time between two initiations that one key of a peer is answered.
pub(super) const MIN_INITIATION_GAP: Duration = Duration::from_millis(20);
/// Responses looked at for one initiation of ours; each costs four Diffie-Hellman operations.
pub(super) const MAX_RESPONSES: u32 = 8;

/// Sessions of two keys that were made within this time count as equally new: both ends may have begun one. Longer than most
/// round trips; in a shorter time hardly a peer restarts.
pub(super) const EQUALLY_NEW: Duration = Duration::from_secs(1);

/// Shortest time between two events that say where one peer is.
pub(super) const ROAMED_INTERVAL: Duration = Duration::from_secs(1);

/// True when `at` is set and has come.
pub(super) fn due(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| at <= now)
}
