//! Writing a log.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::O_NOFOLLOW;

use super::chain::Break;
use super::entry::{self, Event};
use super::lines::last_sum;
use super::reader::{AuditError, AuditReader, io_error};
use super::recovery::{self, Found};
use super::sum::{Head, Sha256Sum};
use crate::access;
use crate::durable::{self, step};

/// How much a log keeps: about `segment * segments` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a file. A line, or a batch of [`AuditLog::append_all`], that alone is longer gets a file of its
    /// own.
    pub segment: u64,
    /// Most files, at least 1.
    pub segments: usize,
}

impl Default for Limits {
    /// 16 files of 1 MiB.
    fn default() -> Self {
        Self { segment: 1 << 20, segments: 16 }
    }
}

/// The audit log of one node, to write. Dropping it lets another process write.
#[derive(Debug)]
pub struct AuditLog {
    reader: AuditReader,
    limits: Limits,
    /// Numbers in the names of the files, ascending, never empty.
    segments: Vec<u64>,
    /// The newest file.
    file: File,
    /// Bytes of the newest file that are known to be on the disk.
    length: u64,
    /// The last line that is known to be on the disk.
    head: Head,
    /// Whether a write failed and may have left bytes after `length`.
    unfinished: bool,
    /// Whether the next line goes into a new file, which may be there already.
    beginning: bool,
    /// Number of the last line that an entry `pruned` covers, as far as this process wrote one.
    announced: u64,
    damage: Option<Break>,
    prune_error: Option<AuditError>,
    _lock: Flock<File>,
}

impl AuditLog {
    /// Opens the log in `dir`, a folder of its own, and makes the folder with mode 0700 if it is not there.
    ///
    /// A last line that is not complete is cut off, which an entry `repaired` records (unless a kill comes between the
    /// two; the line was not acknowledged). If the chain in the newest
    /// file is broken, the file is left as it is, an entry `damaged` in a new file records that, and
    /// [`damage`](Self::damage) returns it.
    ///
    /// # Errors
    /// [`AuditError::Locked`] when another process writes the log; [`AuditError::Access`] when the folder or a file belongs to another user or lets others in; those of the file system.
    pub fn open(dir: impl Into<PathBuf>, limits: Limits, now: Timestamp) -> Result<Self, AuditError> {
        let dir = dir.into();
        durable::make_folder(&dir, 0o700).map_err(|source| io_error("make folder", &dir, source))?;
        let reader = AuditReader::open(dir)?;
        let lock = lock(reader.dir())?;
        // A kill may have come between making the folder and its own sync.
        durable::sync_folder(reader.dir())
            .map_err(|source| io_error("sync the folder of", reader.dir(), source))?;
        let mut segments = reader.segments()?;
        for segment in &segments {
            reader.open_segment(*segment)?;
        }
        let found = recovery::inspect(&reader, &segments)?;
        if segments.is_empty() {
            segments.push(1);
        }
        let newest = segments[segments.len() - 1];
        let file = open_file(&reader.path(newest))?;
        let Found { head, length, .. } = found;
        let mut log = Self {
            reader,
            limits,
            segments,
            file,
            length,
            head,
            unfinished: false,
            beginning: false,
            announced: 0,
            damage: None,
            prune_error: None,
            _lock: lock,
        };
        log.recover(found, now)?;
        log.prune(now);
        Ok(log)
    }

    /// Records an event. When it returns, the event is on the disk.
    ///
    /// # Errors
    /// As [`append_all`](Self::append_all).
    pub fn append(&mut self, event: &Event, now: Timestamp) -> Result<Head, AuditError> {
        self.append_all(std::slice::from_ref(event), now)
    }

    /// Records events with one write and one sync; returns the head after them, and after an entry that pruning
    /// may have added. They go into one file, in their order.
    ///
    /// # Errors
    /// Those of the file system. The head is then the old one, and the next call first cuts off what was written.
    /// If the process ends before that, the events may still be found in the log.
    pub fn append_all(&mut self, events: &[Event], now: Timestamp) -> Result<Head, AuditError> {
        self.cut_unfinished()?;
        let (bytes, head) = encode(self.head, events, now);
        if bytes.is_empty() {
            return Ok(self.head);
        }
        self.beginning |= self.length > 0 && self.length + bytes.len() as u64 > self.limits.segment;
        if self.beginning {
            self.begin()?;
        }
        self.write(&bytes, head)?;
        self.prune(now);
        Ok(self.head)
    }

    /// The last line that was written; [`Head::EMPTY`] for a log without lines.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// The break in the chain that opening found in the newest file, if any. It is recorded.
    #[must_use]
    pub fn damage(&self) -> Option<&Break> {
        self.damage.as_ref()
    }

    /// Why the last attempt to delete old files failed, if it did. Appending continues, and the next append retries.
    #[must_use]
    pub fn prune_error(&self) -> Option<&AuditError> {
        self.prune_error.as_ref()
    }

    /// Reads this log, without a second lock.
    #[must_use]
    pub fn reader(&self) -> &AuditReader {
        &self.reader
    }

    /// Cuts off a torn line and records what was found.
    fn recover(&mut self, found: Found, now: Timestamp) -> Result<(), AuditError> {
        let mut events = Vec::new();
        if let Some(torn) = found.torn {
            self.unfinished = true;
            self.cut_unfinished()?;
            events.push(Event::Repaired { bytes: torn.bytes, sha256: torn.sum });
        } else {
            // A kill may have come before the sync, and the next line may go into another file.
            self.file.sync_all().map_err(|source| io_error("sync", &self.path(), source))?;
        }
        if let Some(damage) = &found.damage {
            let name = damage.file.file_name().unwrap_or_default().to_string_lossy();
            events.push(Event::Damaged {
                file: name.as_ref().into(),
                line: damage.line,
                reason: damage.flaw.to_string().into(),
            });
        }
        self.beginning = found.damaged_newest;
        self.damage = found.damage;
        self.append_all(&events, now).map(drop)
    }

    /// Cuts off what a failed write left.
    fn cut_unfinished(&mut self) -> Result<(), AuditError> {
        if self.unfinished {
            durable::cut(&self.file, self.length).map_err(|source| io_error("cut", &self.path(), source))?;
            self.unfinished = false;
        }
        Ok(())
    }

    /// Begins a new file for the next line.
    fn begin(&mut self) -> Result<(), AuditError> {
        let segment = self.head.number + 1;
        let path = self.reader.path(segment);
        let file = open_file(&path)?;
        // Empty, unless someone else made a file of that name.
        durable::cut(&file, 0).map_err(|source| io_error("cut", &path, source))?;
        (self.file, self.length, self.beginning) = (file, 0, false);
        self.segments.push(segment);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], head: Head) -> Result<(), AuditError> {
        self.unfinished = true;
        durable::append(&self.file, self.length, bytes)
            .map_err(|source| io_error("append to", &self.path(), source))?;
        self.unfinished = false;
        self.length += bytes.len() as u64;
        self.head = head;
        Ok(())
    }

    /// Deletes the oldest files when there are too many. A failure is kept for the caller to report: it must not
    /// keep events from being recorded.
    fn prune(&mut self, now: Timestamp) {
        self.prune_error = self.try_prune(now).err();
    }

    fn try_prune(&mut self, now: Timestamp) -> Result<(), AuditError> {
        let excess = self.segments.len().saturating_sub(self.limits.segments.max(1));
        if excess == 0 {
            return Ok(());
        }
        self.announce(excess, now)?;
        for _ in 0..excess {
            let path = self.reader.path(self.segments[0]);
            delete(&path).map_err(|source| io_error("delete", &path, source))?;
            self.segments.remove(0);
        }
        durable::sync_folder(&self.path()).map_err(|source| io_error("sync", self.reader.dir(), source))
    }

    /// Records that the `excess` oldest files are deleted, each on its own: a kill may leave some of them.
    fn announce(&mut self, excess: usize, now: Timestamp) -> Result<(), AuditError> {
        let mut events = Vec::new();
        for index in 0..excess {
            let through = self.segments[index + 1] - 1;
            if through > self.announced {
                events.push(Event::Pruned { through, hash: self.last_sum(self.segments[index])? });
            }
        }
        let (bytes, head) = encode(self.head, &events, now);
        if !bytes.is_empty() {
            self.write(&bytes, head)?;
        }
        self.announced = self.segments[excess] - 1;
        Ok(())
    }

    /// Hash of the last line of a file as it stands; zero if the file is gone, which verification then reports.
    fn last_sum(&self, segment: u64) -> Result<Sha256Sum, AuditError> {
        match self.reader.open_segment(segment) {
            Err(AuditError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Sha256Sum::ZERO)
            }
            file => last_sum(file?)
                .map(|sum| sum.unwrap_or(Sha256Sum::ZERO))
                .map_err(|source| self.reader.io_error("read", segment, source)),
        }
    }

    /// The newest file.
    fn path(&self) -> PathBuf {
        self.reader.path(self.segments[self.segments.len() - 1])
    }
}

/// The lines of `events` after `head`, and the head after them.
fn encode(mut head: Head, events: &[Event], now: Timestamp) -> (Vec<u8>, Head) {
    let mut bytes = Vec::new();
    for event in events.iter().flat_map(Event::parts) {
        let number = head.number + 1;
        let line = entry::encode(number, now, &event, head.hash);
        head = Head { number, hash: Sha256Sum::of(&line) };
        bytes.extend_from_slice(&line);
        bytes.push(b'\n');
    }
    (bytes, head)
}

/// Opens a file of the log to write; makes it if it is not there.
fn open_file(path: &Path) -> Result<File, AuditError> {
    let make = || -> io::Result<File> {
        step()?;
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(O_NOFOLLOW).mode(0o600);
        let file = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = options.create_new(true).open(path)?;
                step()?;
                file.set_permissions(Permissions::from_mode(0o600))?;
                file
            }
            opened => opened?,
        };
        // Also for a file that is there: a kill may have come between making it and this.
        durable::sync_folder(path)?;
        step()?;
        Ok(file)
    };
    let file = make().map_err(|source| io_error("open", path, source))?;
    access::check(path, &file, 0o600)?;
    Ok(file)
}

fn delete(path: &Path) -> io::Result<()> {
    step()?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => step(),
    }
}

fn lock(dir: &Path) -> Result<Flock<File>, AuditError> {
    let folder = access::open_folder(dir).map_err(|source| io_error("open folder", dir, source))?;
    Flock::lock(folder, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => AuditError::Locked { dir: dir.into() },
        errno => io_error("lock", dir, errno.into()),
    })
}
