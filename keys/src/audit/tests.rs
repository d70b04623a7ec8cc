//! Helpers for the tests of the audit log.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::PublicKey;

mod crash;
mod format;
mod tamper;
mod usage;

/// Lines with their newlines, each with the index of its file.
type FileLines = Vec<(usize, Vec<u8>)>;

fn now() -> Timestamp {
    "2026-01-31T12:00:00Z".parse().unwrap()
}

/// Limits under which no file ends.
const WIDE: Limits = Limits { segment: 1 << 30, segments: 16 };

fn open(dir: &Path, limits: Limits) -> AuditLog {
    AuditLog::open(dir, limits, now()).unwrap()
}

/// A log with one line for each of `events`.
fn log_of(events: &[Event], limits: Limits) -> (tempfile::TempDir, AuditLog) {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(&folder.path().join("state/audit"), limits);
    for event in events {
        log.append(event, now()).unwrap();
    }
    (folder, log)
}

fn reason(text: &str) -> Event {
    Event::GuardOpened { reason: text.into() }
}

fn some(count: usize) -> Vec<Event> {
    (0..count).map(|number| reason(&format!("reason {number}"))).collect()
}

/// All files of the log, the oldest first.
fn files(dir: &Path) -> Vec<Vec<u8>> {
    let segments = lines::segments(dir).unwrap();
    segments.iter().map(|segment| fs::read(lines::segment_path(dir, *segment)).unwrap()).collect()
}

/// Writes `files` over those of the log.
fn put(dir: &Path, files: &[Vec<u8>]) {
    for (segment, bytes) in lines::segments(dir).unwrap().into_iter().zip(files) {
        fs::write(lines::segment_path(dir, segment), bytes).unwrap();
    }
}

fn split(files: &[Vec<u8>]) -> FileLines {
    let lines = |(index, file): (usize, &Vec<u8>)| {
        file.split_inclusive(|byte| *byte == b'\n')
            .map(move |line| (index, line.to_vec()))
            .collect::<Vec<_>>()
    };
    files.iter().enumerate().flat_map(lines).collect()
}

/// The files that hold `lines`.
fn join(count: usize, lines: &[(usize, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut files = vec![Vec::new(); count];
    lines.iter().for_each(|(file, line)| files[*file].extend_from_slice(line));
    files
}

/// What someone who knows the format does: changes the line at `target`, and computes the chain after it again.
fn forge(files: &[Vec<u8>], target: usize, from: &str, to: &str) -> Vec<Vec<u8>> {
    let mut lines = split(files);
    let mut previous = None;
    for (index, (_, line)) in lines.iter_mut().enumerate() {
        let mut text = String::from_utf8(line.clone()).unwrap();
        if index == target {
            assert!(text.contains(from), "{text}");
            text = text.replacen(from, to, 1);
        }
        if let Some(sum) = previous.filter(|_| index > target) {
            let start = text.rfind("\"previous\":\"").unwrap();
            text = format!("{}\"previous\":\"{sum}\"}}\n", &text[..start]);
        }
        previous = Some(Sha256Sum::of(text.trim_end().as_bytes()));
        *line = text.into_bytes();
    }
    join(files.len(), &lines)
}

/// The heads after each line.
fn heads(files: &[Vec<u8>]) -> Vec<Head> {
    let head = |(_, line): (usize, Vec<u8>)| {
        let line = line.strip_suffix(b"\n").unwrap();
        Head { number: entry::Frame::parse(line).unwrap().number, hash: Sha256Sum::of(line) }
    };
    split(files).into_iter().map(head).collect()
}

fn public_key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(PublicKey::from_bytes)
}

fn text() -> impl Strategy<Value = Text> {
    "[a-z0-9-]{0,20}|\\PC{0,300}|[\\x00-\\u{ff}]{0,300}|[\"\\\\\n\u{1f9f5}]{0,300}".prop_map(Text::from)
}

/// Every event that callers can make.
fn event() -> impl Strategy<Value = Event> {
    let seconds = 0i64..4_000_000_000;
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), seconds);
    let keys = proptest::collection::vec(public_key(), 0..60);
    (0u8..15, numbers, (text(), text(), text()), keys, public_key()).prop_map(
        |(kind, (epoch, confirmed, live, seconds), (one, two, three), public_keys, public_key)| match kind {
            0 => Event::KeyCreated { epoch, public_key },
            1 => Event::KeyPublished { epoch, public_key },
            2 => Event::PeerConfirmed { epoch, peer: one },
            3 => Event::KeyPromoted { epoch, public_key, confirmed, live },
            4 => Event::KeyRetired { epoch, public_key, reason: one },
            5 => Event::KeyRevoked { node: one, uid: two, public_keys, by: three },
            6 => Event::NodeReadmitted { node: one, uid: two, by: three },
            7 => Event::ClaimRefused { node: one, uid: two, reason: three },
            8 => Event::RotationRequested {
                id: one,
                by: two,
                reason: three,
                deadline: Timestamp::from_second(seconds).unwrap(),
            },
            9 => Event::RotationResumed { id: one, phase: two },
            10 => Event::RotationAborted { id: one, by: two.clone(), reason: two },
            11 => Event::RotationEnded { id: one, outcome: two },
            12 => Event::GuardOpened { reason: one },
            13 => Event::GuardClosed {},
            _ => Event::AgentStarted { version: one },
        },
    )
}

fn events(most: usize) -> impl Strategy<Value = Vec<Event>> {
    proptest::collection::vec(event(), 2..most)
}

fn limits() -> impl Strategy<Value = Limits> {
    (1u64..6000, 1usize..6).prop_map(|(segment, segments)| Limits { segment, segments })
}
