//! What the writer finds when it opens a log: where to continue, and what a crash or an attacker left.

use super::chain::{Break, Chain, Flaw, is_torn, parse};
use super::lines::{Lines, last_sum};
use super::reader::{AuditError, AuditReader};
use super::sum::{Head, Sha256Sum};

/// A last line that is not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Torn {
    /// Its bytes in the file.
    pub(crate) bytes: u64,
    /// Hash of the line, without its newline.
    pub(crate) sum: Sha256Sum,
}

/// State of a log on the disk.
#[derive(Debug)]
pub(crate) struct Found {
    /// The last complete line; the next entry names its hash.
    pub(crate) head: Head,
    /// Bytes of the newest file without the torn line.
    pub(crate) length: u64,
    /// What has to be cut off from the newest file.
    pub(crate) torn: Option<Torn>,
    /// The first broken line in the newest file that has lines.
    pub(crate) damage: Option<Break>,
    /// Whether the newest file has to be left as it is.
    pub(crate) damaged_newest: bool,
}

/// Reads the newest file, and the one before it if the newest has no complete line: the writer may
/// have been killed right after it made the file. Older files are left to the verification: damage in them was recorded when they were new, or
/// was done later.
pub(crate) fn inspect(reader: &AuditReader, segments: &[u64]) -> Result<Found, AuditError> {
    let Some((newest, older)) = segments.split_last() else {
        return Ok(Found { head: Head::EMPTY, length: 0, torn: None, damage: None, damaged_newest: false });
    };
    let scan = Scan::read(reader, *newest, older.last().copied())?;
    if scan.lines > 0 || older.is_empty() {
        let torn = scan.torn.filter(|_| scan.damage.is_none());
        let head = scan.head.unwrap_or(Head { number: newest - 1, hash: Sha256Sum::ZERO });
        let damaged_newest = scan.damage.is_some();
        return Ok(Found { head, length: scan.length, torn, damage: scan.damage, damaged_newest });
    }
    let before = older[older.len() - 1];
    let earlier = Scan::read(reader, before, older.iter().rev().nth(1).copied())?;
    let expected = earlier.head.map_or(before, |head| head.number.saturating_add(1));
    let flaw = if earlier.torn.is_some() {
        Some((before, earlier.lines + 1, Flaw::Incomplete))
    } else {
        (expected != *newest).then_some((*newest, 1, Flaw::Number { expected, found: *newest }))
    };
    let flaw = flaw.map(|(segment, line, flaw)| Break { file: reader.path(segment), line, flaw });
    // No line that follows on the one before can have the number in the name of this file.
    let damaged_newest = expected > *newest;
    Ok(Found {
        head: Head {
            number: (expected - 1).max(newest - 1),
            hash: earlier.head.map_or(Sha256Sum::ZERO, |head| head.hash),
        },
        length: scan.length,
        torn: scan.torn.filter(|_| !damaged_newest),
        damage: earlier.damage.or(flaw),
        damaged_newest,
    })
}

/// What is in one file.
#[derive(Debug, Default)]
struct Scan {
    /// Number of lines, without a torn one.
    lines: u64,
    /// Bytes of those lines.
    length: u64,
    /// The last complete line. After damage, the greater of the number in it and the one counted from the name of
    /// the file, so that numbers only grow.
    head: Option<Head>,
    torn: Option<Torn>,
    damage: Option<Break>,
}

impl Scan {
    fn read(reader: &AuditReader, segment: u64, before: Option<u64>) -> Result<Self, AuditError> {
        let previous = match before {
            Some(before) => last_sum(reader.open_segment(before)?)
                .map_err(|source| reader.io_error("read", before, source))?,
            None => None,
        };
        let mut chain = Chain { number: None, previous };
        let mut scan = Self::default();
        let mut lines = Lines::new(reader.open_segment(segment)?).peekable();
        while let Some(line) = lines.next() {
            let line = line.map_err(|source| reader.io_error("read", segment, source))?;
            let end = line.offset + line.length;
            if lines.peek().is_none() && is_torn(&line) {
                scan.torn = Some(Torn { bytes: line.length, sum: line.sum });
                break;
            }
            let followed = if scan.damage.is_none() { chain.follow(segment, &line) } else { parse(&line) };
            let counted = segment.saturating_add(scan.lines);
            let number = match followed {
                Ok(frame) if frame.number <= counted.saturating_add(u64::from(u32::MAX)) => {
                    frame.number.max(counted)
                }
                Ok(_) => counted,
                Err(flaw) => {
                    scan.damage.get_or_insert(Break { file: reader.path(segment), line: line.place, flaw });
                    counted
                }
            };
            let number = number.max(scan.head.map_or(0, |head| head.number));
            scan.head = Some(Head { number, hash: line.sum });
            (scan.lines, scan.length) = (scan.lines + 1, end);
        }
        Ok(scan)
    }
}
