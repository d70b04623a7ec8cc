//! Access to what this crate stores: folders and files are opened without following symbolic links, and refused
//! when another user owns them or may open them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::libc::{O_DIRECTORY, O_NOFOLLOW};

/// Why a folder or file is refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Its owner and mode cannot be read.
    Unknown(io::Error),
    /// User ID of the owner, and the effective user ID of this process.
    Owner { owner: u32, user: u32 },
    /// Its mode, which has bits for the group or for others.
    Mode(u32),
}

/// Opens the folder `dir` to read.
pub(crate) fn open_folder(dir: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW).open(dir)
}

/// Checks that only the user of this process may open the folder or file.
pub(crate) fn check(file: &File) -> Result<(), Refusal> {
    let metadata = file.metadata().map_err(Refusal::Unknown)?;
    let user = nix::unistd::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(Refusal::Owner { owner: metadata.uid(), user });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(Refusal::Mode(mode)) }
}
