//! Reading a log, beside the process that writes it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::libc::O_NOFOLLOW;

use super::chain::{Break, Flaw, parse};
use super::entry::Entry;
use super::lines::{self, Lines, segment_path};
use super::sum::Head;
use crate::access::{self, AccessError};

/// Why the audit log could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file system refused.
    #[error("audit log: cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The folder or a file belongs to another user, or lets other users in.
    #[error("audit log: {0}")]
    Access(#[from] AccessError),
    /// Another process writes the log.
    #[error("another process writes the audit log {}; only one agent can run on a node: stop the other", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// A line cannot be read.
    #[error("{0}; verify the audit log")]
    Line(#[from] Break),
}

/// The audit log of one node, to read. Nothing is locked or written.
#[derive(Debug)]
pub struct AuditReader {
    dir: PathBuf,
}

impl AuditReader {
    /// Opens the log that is in `dir`.
    ///
    /// # Errors
    /// When the folder is missing or a symbolic link, belongs to another user or lets others in.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, AuditError> {
        let dir = dir.into();
        let folder = access::open_folder(&dir).map_err(|source| io_error("open folder", &dir, source))?;
        access::check(&dir, &folder, 0o700)?;
        Ok(Self { dir })
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All entries, the oldest first. A last line that is not complete is left out: the writer may still be writing it.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn entries(&self) -> Result<Entries, AuditError> {
        Ok(self.entries_of(self.segments()?))
    }

    /// The newest `count` entries, the oldest of them first.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn newest(&self, count: usize) -> Result<Vec<Result<Entry, AuditError>>, AuditError> {
        let segments = self.segments()?;
        // Names are numbers of first lines: from this file on there are at least `count` lines.
        let enough = segments.last().map_or(0, |last| last.saturating_sub(count as u64));
        let from = segments.iter().rposition(|segment| *segment <= enough).unwrap_or(0);
        let mut newest = VecDeque::new();
        for entry in self.entries_of(segments[from..].to_vec()) {
            newest.push_back(entry);
            if newest.len() > count {
                newest.pop_front();
            }
        }
        Ok(newest.into())
    }

    /// The entries recorded at `since` or later by the clock of the node, the oldest first.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn since(
        &self,
        since: Timestamp,
    ) -> Result<impl Iterator<Item = Result<Entry, AuditError>>, AuditError> {
        let recent =
            move |entry: &Result<Entry, AuditError>| entry.as_ref().map_or(true, |entry| entry.at >= since);
        Ok(self.entries()?.filter(recent))
    }

    /// The last complete line on the disk; [`Head::EMPTY`] for a log without lines. It is not verified.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn head(&self) -> Result<Head, AuditError> {
        for segment in self.segments()?.into_iter().rev() {
            let mut head = None;
            for line in Lines::new(self.open_segment(segment)?) {
                let line = line.map_err(|source| self.io_error("read", segment, source))?;
                if let (true, Ok(frame)) = (line.complete, parse(&line)) {
                    head = Some(Head { number: frame.number, hash: line.sum });
                }
            }
            if let Some(head) = head {
                return Ok(head);
            }
        }
        Ok(Head::EMPTY)
    }

    pub(crate) fn segments(&self) -> Result<Vec<u64>, AuditError> {
        lines::segments(&self.dir).map_err(|source| io_error("list", &self.dir, source))
    }

    pub(crate) fn path(&self, segment: u64) -> PathBuf {
        segment_path(&self.dir, segment)
    }

    /// Opens a file of the log to read, after checking that others cannot.
    pub(crate) fn open_segment(&self, segment: u64) -> Result<File, AuditError> {
        let path = self.path(segment);
        let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(&path);
        let file = file.map_err(|source| io_error("open", &path, source))?;
        access::check(&path, &file, 0o600)?;
        Ok(file)
    }

    pub(crate) fn io_error(&self, action: &'static str, segment: u64, source: io::Error) -> AuditError {
        io_error(action, &self.path(segment), source)
    }

    fn entries_of(&self, segments: Vec<u64>) -> Entries {
        let reader = Self { dir: self.dir.clone() };
        Entries { reader, segments: segments.into(), segment: 0, lines: None }
    }
}

/// Iterates over entries, the oldest first. A line that cannot be read is an error, and the next line follows.
#[derive(Debug)]
pub struct Entries {
    reader: AuditReader,
    segments: VecDeque<u64>,
    segment: u64,
    lines: Option<Lines<File>>,
}

impl Entries {
    /// Opens the next file; false if there is none. One that is missing was pruned meanwhile.
    fn advance(&mut self) -> Result<bool, AuditError> {
        while let Some(segment) = self.segments.pop_front() {
            self.segment = segment;
            match self.reader.open_segment(segment) {
                Err(AuditError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                file => {
                    self.lines = Some(Lines::new(file?));
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, AuditError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(line) = self.lines.as_mut().and_then(Iterator::next) else {
                self.lines = None;
                match self.advance() {
                    Ok(true) => continue,
                    Ok(false) => return None,
                    Err(error) => return Some(Err(error)),
                }
            };
            let line = match line {
                Ok(line) if !line.complete => continue,
                Ok(line) => line,
                Err(source) => {
                    self.lines = None;
                    return Some(Err(self.reader.io_error("read", self.segment, source)));
                }
            };
            let entry = parse(&line).and_then(|_| Entry::parse(&line.bytes).ok_or(Flaw::Syntax));
            let file = self.reader.path(self.segment);
            return Some(entry.map_err(|flaw| Break { file, line: line.place, flaw }.into()));
        }
    }
}

pub(crate) fn io_error(action: &'static str, path: &Path, source: io::Error) -> AuditError {
    AuditError::Io { action, path: path.into(), source }
}
