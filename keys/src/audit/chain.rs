//! The chain of hashes through the lines.

use std::path::PathBuf;

use super::entry::{Frame, MAX_LINE};
use super::lines::Line;
use super::sum::Sha256Sum;

/// A line at which the chain of a log is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}, line {line}: {flaw}", file.display())]
pub struct Break {
    /// The file.
    pub file: PathBuf,
    /// Line in the file, from 1.
    pub line: u64,
    /// What is wrong.
    pub flaw: Flaw,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Longer than any line of a log.
    #[error("it is longer than {MAX_LINE} bytes")]
    TooLong,
    /// Not the JSON object of an entry.
    #[error("it is not a JSON object with number, at, event and previous")]
    Syntax,
    /// The last line of a file ends without a newline, although a later file follows.
    #[error("it ends without a newline, although another file follows")]
    Incomplete,
    /// The number does not follow the one before.
    #[error("it has number {found} where {expected} should follow: {}", gap(*expected, *found))]
    Number {
        /// One more than the number of the line before.
        expected: u64,
        /// The number in the line.
        found: u64,
    },
    /// The file is named after another number than its first line has.
    #[error(
        "it has number {found}, but the file is named after number {expected}: the file was renamed or changed"
    )]
    Name {
        /// The number in the name of the file.
        expected: u64,
        /// The number in the line.
        found: u64,
    },
    /// The hash does not match the line before.
    #[error("its `previous` is not the hash of the line before it: one of the two lines was changed")]
    Previous,
    /// Entry number 1 follows no other.
    #[error("it is the first entry, but its `previous` is not zero: it was changed")]
    First,
}

fn gap(expected: u64, found: u64) -> &'static str {
    if found > expected { "lines before it were removed" } else { "lines were inserted, repeated or moved" }
}

/// Checks that each line follows the one before it.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// The number of the next line, if known.
    pub(crate) number: Option<u64>,
    /// The hash that the next line names, if known.
    pub(crate) previous: Option<Sha256Sum>,
}

impl Chain {
    /// Checks the next line. `segment` is the number in the name of the file.
    pub(crate) fn follow(&mut self, segment: u64, line: &Line) -> Result<Frame, Flaw> {
        let frame = parse(line)?;
        let found = frame.number;
        match self.number {
            Some(expected) if expected != found => return Err(Flaw::Number { expected, found }),
            _ if line.place == 1 && found != segment => return Err(Flaw::Name { expected: segment, found }),
            _ => {}
        }
        match self.previous {
            _ if found == 1 && frame.previous != Sha256Sum::ZERO => return Err(Flaw::First),
            Some(previous) if frame.previous != previous => return Err(Flaw::Previous),
            _ => {}
        }
        *self = Self { number: found.checked_add(1), previous: Some(line.sum) };
        Ok(frame)
    }
}

/// Reads a line that may be the last of a file.
pub(crate) fn parse(line: &Line) -> Result<Frame, Flaw> {
    match line.bytes.len() {
        0..=MAX_LINE => Frame::parse(&line.bytes).ok_or(Flaw::Syntax),
        _ => Err(Flaw::TooLong),
    }
}

/// Whether a crash in the middle of a write can have left `line` at the end of a log: it has no newline, or is not
/// the line of an entry.
pub(crate) fn is_torn(line: &Line) -> bool {
    !line.complete || parse(line).is_err()
}
