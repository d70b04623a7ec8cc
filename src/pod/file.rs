//! Files that are there whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Whether a file has to outlive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Synced to disk with its folder.
    Disk,
    /// Only safe against the death of the process, as is enough under /run.
    Memory,
}

/// Writes `content` to a temporary file beside `path` and renames it there. The folder is made if it is missing.
pub fn replace(path: &Path, mode: u32, durability: Durability, content: &[u8]) -> io::Result<()> {
    replace_from(path, mode, durability, &mut &*content)
}

/// The same, copying from `source`.
pub fn replace_from(
    path: &Path,
    mode: u32,
    durability: Durability,
    source: &mut dyn io::Read,
) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    std::fs::create_dir_all(folder)?;
    let temporary = temporary(path)?;
    let written =
        write(&temporary, mode, durability, source).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    match durability {
        Durability::Disk => File::open(folder)?.sync_all(),
        Durability::Memory => Ok(()),
    }
}

fn write(path: &Path, mode: u32, durability: Durability, source: &mut dyn io::Read) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    io::copy(source, &mut file)?;
    file.flush()?;
    match durability {
        Durability::Disk => file.sync_all(),
        Durability::Memory => Ok(()),
    }
}

/// A hidden name in the same folder that no other process uses.
fn temporary(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let suffix = u64::from_ne_bytes(random);
    Ok(path.with_file_name(format!(".{}.{suffix:016x}.tmp", name.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/file");
        replace(&path, 0o600, Durability::Disk, b"one").unwrap();
        replace(&path, 0o600, Durability::Memory, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_keeps_the_old_file_and_no_temporary_one() {
        struct Broken;
        impl io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace(&path, 0o600, Durability::Memory, b"one").unwrap();
        replace_from(&path, 0o600, Durability::Memory, &mut Broken).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
