//! Verification of a log, by anyone who has its files: no lock, and no key.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::chain::{Break, Chain, Flaw, is_torn};
use super::entry::{Event, Frame};
use super::lines::{self, Line, Lines, segment_path};
use super::sum::{Head, Sha256Sum};

/// How often verification begins again because the writer deleted a file meanwhile.
const ATTEMPTS: usize = 10;

/// What a log that passed verification holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// Number of the oldest line; above 1 when older ones were pruned, 0 for a log without lines.
    pub first: u64,
    /// The last complete line.
    pub head: Head,
    /// Number of complete lines.
    pub entries: u64,
    /// Number up to which the anchor vouches; lines above it can have been replaced. None without an anchor.
    pub anchored: Option<u64>,
    /// Number of entries that record a last line that was cut off after a crash.
    pub repaired: u64,
    /// Number of entries that record a broken chain, found on opening in a file that has been pruned since.
    pub damaged: u64,
    /// Whether the log ends in a line that is not complete: a write is under way, or was cut off by a crash or by
    /// someone. The writer removes that line when it opens the log.
    pub torn_tail: bool,
}

/// Why a log did not pass verification.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The files cannot be read.
    #[error("cannot read {}: {source}; run the verification as the user that owns the audit log", path.display())]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The chain is broken.
    #[error("{0}; copy the folder as evidence, and compare it with a backup or with collected logs")]
    Broken(#[from] Break),
    /// Older lines are missing, and no entry says that they were pruned.
    #[error(
        "{}, line 1: the log begins with number {first}, but has no entry that says that the lines before it were \
         pruned: they were removed; copy the folder as evidence, and look for the missing files in a backup",
        file.display()
    )]
    Beginning {
        /// The oldest file.
        file: PathBuf,
        /// Number of its first line.
        first: u64,
    },
    /// The line with the number of the anchor has another hash.
    #[error(
        "{}, line {line}: the hash of number {} is {found}, but the anchor says {}: this line or one before it was \
         replaced, or the anchor is of another node; copy the folder as evidence, and compare it with a backup",
        file.display(), anchor.number, anchor.hash
    )]
    Anchor {
        /// The file.
        file: PathBuf,
        /// Line in the file, from 1.
        line: u64,
        /// The hash in the log.
        found: Sha256Sum,
        /// The anchor.
        anchor: Head,
    },
    /// The log ends before the anchor.
    #[error(
        "{}, line {line}: the log ends with number {}, but the anchor is number {}: the lines after it were cut off; \
         copy the folder as evidence, and look for the missing lines in a backup or in collected logs",
        file.display(), head.number, anchor.number
    )]
    CutOff {
        /// The newest file, or the folder if the log has no files.
        file: PathBuf,
        /// The last complete line in it, from 1; 0 if there is none.
        line: u64,
        /// Where the log ends.
        head: Head,
        /// The anchor.
        anchor: Head,
    },
    /// The anchor is of a line that has been pruned.
    #[error(
        "{}, line 1: the log begins with number {first}, but the anchor is number {anchor}, which was pruned; \
         verify with a later anchor, or together with a backup that has the older files",
        file.display()
    )]
    AnchorPruned {
        /// The oldest file.
        file: PathBuf,
        /// Number of the anchor.
        anchor: u64,
        /// Number of the oldest line.
        first: u64,
    },
}

/// Verifies the log in `dir`, against an anchor that was kept in another place.
///
/// Without an anchor, it finds what was changed, removed, inserted or moved between the first and the last line,
/// but neither a cut at the end nor a log that was written again as a whole. With one, it finds all that up to the
/// anchor. Owner and mode of the files do not matter, so that a copy can be verified. It may run beside the writer.
///
/// # Errors
/// See [`VerifyError`]; each names the file, the line and what to do next.
pub fn verify(dir: impl AsRef<Path>, anchor: Option<&Head>) -> Result<Verified, VerifyError> {
    let dir = dir.as_ref();
    for _ in 1..ATTEMPTS {
        match verify_once(dir, anchor) {
            Err(VerifyError::Read { path, source })
                if source.kind() == io::ErrorKind::NotFound && path != dir => {}
            result => return result,
        }
    }
    verify_once(dir, anchor)
}

fn verify_once(dir: &Path, anchor: Option<&Head>) -> Result<Verified, VerifyError> {
    let segments = lines::segments(dir).map_err(|source| read_error(dir, source))?;
    let mut verifier = Verifier::new(dir, anchor.copied());
    for (index, segment) in segments.iter().enumerate() {
        let path = segment_path(dir, *segment);
        let file = File::open(&path).map_err(|source| read_error(&path, source))?;
        verifier.begin(*segment, index + 1 == segments.len());
        let mut lines = Lines::new(file).peekable();
        while let Some(line) = lines.next() {
            let line = line.map_err(|source| read_error(&path, source))?;
            verifier.take(&line, lines.peek().is_none())?;
        }
    }
    verifier.finish()
}

fn read_error(path: &Path, source: io::Error) -> VerifyError {
    VerifyError::Read { path: path.into(), source }
}

/// The verification itself, over the lines in their order; does no I/O.
#[derive(Debug)]
pub(crate) struct Verifier {
    dir: PathBuf,
    anchor: Option<Head>,
    chain: Chain,
    /// Number in the name of the oldest file.
    oldest: Option<u64>,
    /// Number in the name of the file at hand.
    segment: u64,
    /// Whether the file at hand is the last.
    newest: bool,
    /// Line in the file at hand, from 1.
    place: u64,
    /// What the first line names as the line before it.
    base: Option<Head>,
    /// Whether an entry says that the lines through `base` were pruned.
    announced: bool,
    verified: Verified,
}

impl Verifier {
    pub(crate) fn new(dir: &Path, anchor: Option<Head>) -> Self {
        let verified = Verified {
            first: 0,
            head: Head::EMPTY,
            entries: 0,
            anchored: None,
            repaired: 0,
            damaged: 0,
            torn_tail: false,
        };
        Self {
            dir: dir.into(),
            anchor,
            chain: Chain::default(),
            oldest: None,
            segment: 0,
            newest: false,
            place: 0,
            base: None,
            announced: false,
            verified,
        }
    }

    /// The next lines are those of the file named after `segment`.
    pub(crate) fn begin(&mut self, segment: u64, newest: bool) {
        self.oldest.get_or_insert(segment);
        (self.segment, self.newest, self.place) = (segment, newest, 0);
    }

    /// Checks the next line of that file; `last` if the file ends after it.
    pub(crate) fn take(&mut self, line: &Line, last: bool) -> Result<(), VerifyError> {
        if self.newest && last && is_torn(line) {
            self.verified.torn_tail = true;
            return Ok(());
        }
        let followed =
            if line.complete { self.chain.follow(self.segment, line) } else { Err(Flaw::Incomplete) };
        let frame =
            followed.map_err(|flaw| Break { file: self.file(self.segment), line: line.place, flaw })?;
        self.place = line.place;
        if self.base.is_none() {
            let base = Head { number: frame.number.saturating_sub(1), hash: frame.previous };
            self.base = Some(base);
            self.verified.first = frame.number;
            self.compare(base, line.place)?;
        }
        self.verified.head = Head { number: frame.number, hash: line.sum };
        self.verified.entries += 1;
        self.count(&frame, line);
        self.compare(self.verified.head, line.place)
    }

    /// Checks what can only be known after the last line.
    pub(crate) fn finish(mut self) -> Result<Verified, VerifyError> {
        let base = self
            .base
            .unwrap_or(Head { number: self.oldest.map_or(0, |oldest| oldest - 1), hash: Sha256Sum::ZERO });
        let file = self.file(self.oldest.unwrap_or(0));
        if base.number > 0 && !self.announced {
            return Err(VerifyError::Beginning { file, first: base.number + 1 });
        }
        let Some(anchor) = self.anchor else { return Ok(self.verified) };
        if self.base.is_none() {
            self.compare(base, 0)?;
        }
        let head = self.verified.head;
        if anchor.number > head.number {
            return Err(VerifyError::CutOff {
                file: self.file(self.segment),
                line: self.place,
                head,
                anchor,
            });
        }
        if anchor.number < base.number {
            return Err(VerifyError::AnchorPruned { file, anchor: anchor.number, first: base.number + 1 });
        }
        Ok(self.verified)
    }

    fn count(&mut self, frame: &Frame, line: &Line) {
        if !matches!(frame.event.as_str(), "repaired" | "pruned" | "damaged") {
            return;
        }
        match serde_json::from_slice(&line.bytes) {
            Ok(Event::Repaired { .. }) => self.verified.repaired += 1,
            Ok(Event::Damaged { .. }) => self.verified.damaged += 1,
            Ok(Event::Pruned { through, hash }) => {
                self.announced |= self.base == Some(Head { number: through, hash });
            }
            _ => {}
        }
    }

    /// Compares a line, or the one before the first, with the anchor.
    fn compare(&mut self, found: Head, line: u64) -> Result<(), VerifyError> {
        match self.anchor {
            Some(anchor) if anchor == found => self.verified.anchored = Some(anchor.number),
            Some(anchor) if anchor.number == found.number => {
                let file = self.file(self.segment);
                return Err(VerifyError::Anchor { file, line, found: found.hash, anchor });
            }
            _ => {}
        }
        Ok(())
    }

    fn file(&self, segment: u64) -> PathBuf {
        if segment == 0 { self.dir.clone() } else { segment_path(&self.dir, segment) }
    }
}
