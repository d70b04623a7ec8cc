//! Files that after a crash are either as they were or as they should be, never between, and on disk once the
//! call returns.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Ending of the file that is written before it is renamed. A crash can leave one behind.
pub const TEMPORARY: &str = ".tmp";

/// Writes `bytes` as the whole file `path` with `mode`: into a temporary file beside it, fsync, rename over
/// `path`, fsync of the folder. One writer at a time; readers need no lock.
///
/// # Errors
/// Those of the file system. The file is then the old one, or (if only the last fsync failed) the new one.
pub fn write(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary(path)?;
    step()?;
    remove(&temporary)?;
    step()?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&temporary)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    let (first, second) = bytes.split_at(bytes.len() / 2);
    file.write_all(first)?;
    step()?;
    file.write_all(second)?;
    step()?;
    file.sync_all()?;
    step()?;
    fs::rename(&temporary, path)?;
    step()?;
    sync_folder(path)
}

/// Deletes `path` for good: renames it to `doomed` first, so that nobody finds it half overwritten, then
/// overwrites it with zeros and unlinks it, each step on disk before the next. On file systems that copy on
/// write, and on flash, the old blocks may live on beneath.
///
/// # Errors
/// Those of the file system; [`finish_wipe`] resumes.
pub fn wipe(path: &Path, doomed: &Path) -> io::Result<()> {
    step()?;
    fs::rename(path, doomed)?;
    step()?;
    sync_folder(doomed)?;
    finish_wipe(doomed)
}

/// Overwrites and unlinks a file.
///
/// # Errors
/// Those of the file system; calling it again resumes.
pub fn finish_wipe(doomed: &Path) -> io::Result<()> {
    step()?;
    let mut file = OpenOptions::new().write(true).custom_flags(nix::libc::O_NOFOLLOW).open(doomed)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(1 << 20);
    file.write_all(&vec![0; length])?;
    file.sync_all()?;
    step()?;
    fs::remove_file(doomed)?;
    step()?;
    sync_folder(doomed)
}

/// Writes `bytes` at `offset`, the end of `file`, in one write, and syncs the file. After an error or a kill, any
/// part of `bytes` may be in the file: [`cut`] removes it.
///
/// # Errors
/// Those of the file system.
pub(crate) fn append(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    step()?;
    // In tests a kill can come in the middle of the write.
    let half = if cfg!(test) { bytes.len() / 2 } else { 0 };
    if half > 0 {
        file.write_all_at(&bytes[..half], offset)?;
        step()?;
    }
    file.write_all_at(&bytes[half..], offset + half as u64)?;
    step()?;
    file.sync_data()?;
    step()
}

/// Cuts the file down to its first `length` bytes, and syncs it.
///
/// # Errors
/// Those of the file system; calling it again resumes.
pub(crate) fn cut(file: &File, length: u64) -> io::Result<()> {
    step()?;
    file.set_len(length)?;
    step()?;
    file.sync_all()?;
    step()
}

/// Makes the folder `path` with `mode`, and the ones above it that are missing. A folder that is there is left as it is,
/// and nothing is written then.
///
/// # Errors
/// Those of the file system.
pub fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.mode(mode);
    let made = match (builder.create(path), path.parent()) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(parent, mode)?;
            builder.create(path)
        }
        (made, _) => made,
    };
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    step()?;
    sync_folder(path)
}

/// Puts the entries of the folder that holds `path` on disk.
///
/// # Errors
/// Those of the file system.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn temporary(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(TEMPORARY);
    Ok(path.with_file_name(name))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "the same shape as in tests, where it can fail")]
pub(crate) fn step() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use fault::step;

/// Simulated kills: the process ends, as far as the disk can tell, right before a chosen step.
#[cfg(test)]
pub(crate) mod fault {
    use std::cell::Cell;
    use std::io;

    thread_local!(static LEFT: Cell<Option<u32>> = const { Cell::new(None) });

    /// Runs `body`, killed before step number `steps`; None if it ran to its end before that.
    pub(crate) fn killed_after<T>(steps: u32, body: impl FnOnce() -> T) -> Option<T> {
        LEFT.set(Some(steps));
        let result = body();
        let killed = LEFT.replace(None) == Some(0);
        if killed { Some(result) } else { None }
    }

    pub(crate) fn step() -> io::Result<()> {
        match LEFT.get() {
            Some(0) => Err(io::Error::other("killed here by the test")),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_at_any_step_leaves_the_old_or_the_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, 0o600, b"old content").unwrap();
        let mut kills = 0;
        while fault::killed_after(kills, || write(&path, 0o600, b"new content")).is_some() {
            let now = fs::read(&path).unwrap();
            assert!(now == b"old content" || now == b"new content", "{now:?} after {kills} steps");
            write(&path, 0o600, b"old content").unwrap();
            kills += 1;
        }
        assert!(kills >= 5, "only {kills} steps were tried");
        assert_eq!(fs::read(&path).unwrap(), b"new content");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn the_mode_is_exact() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, 0o640, b"").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    }
}
