//! Access to what this crate stores: folders and files are opened without following symbolic links, and refused
//! when another user owns them or may open them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc::{O_DIRECTORY, O_NOFOLLOW};

/// Why a folder or file is refused.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Its owner and mode cannot be read.
    #[error("cannot examine {}: {source}", path.display())]
    Examine {
        /// The folder or file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Users other than the owner may open it.
    #[error("{} has mode {mode:04o}, which gives other users access; run `chmod {wanted:04o} {0}`", path.display())]
    Mode {
        /// The folder or file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode it should have.
        wanted: u32,
    },
    /// Another user owns it.
    #[error("{} belongs to user {owner}, but this process is user {user}; run `chown {user} {0}`", path.display())]
    Owner {
        /// The folder or file.
        path: PathBuf,
        /// User ID of the owner.
        owner: u32,
        /// The effective user ID of this process.
        user: u32,
    },
}

/// Opens the folder `dir` to read.
pub(crate) fn open_folder(dir: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW).open(dir)
}

/// Checks that only the user of this process may open the folder or file at `path`, which should have the mode `wanted`.
pub(crate) fn check(path: &Path, file: &File, wanted: u32) -> Result<(), AccessError> {
    let path = path.to_owned();
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(source) => return Err(AccessError::Examine { path, source }),
    };
    let (owner, user) = (metadata.uid(), nix::unistd::geteuid().as_raw());
    if owner != user {
        return Err(AccessError::Owner { path, owner, user });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(AccessError::Mode { path, mode, wanted }) }
}
