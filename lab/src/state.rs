//! Where labs keep their files: a folder for each, of this user alone.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Environment variable that names the folder of all labs: inside a lab one is another user than outside.
pub const ROOT: &str = "SELVEDGE_LAB_ROOT";
/// Longest path of a unix socket, in bytes.
const SOCKET_LIMIT: usize = 107;

/// The folder of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    name: String,
    path: PathBuf,
}

/// What is wrong with a folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that is no file name.
    #[error("`{0}` is no name for a lab: use letters, digits, dots and dashes, at most 40")]
    Name(String),
    /// It cannot be made or used.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else's, or open to others.
    #[error("{0} belongs to somebody else or is open to others: remove it, or set XDG_RUNTIME_DIR")]
    NotOurs(PathBuf),
    /// The socket's path is too long.
    #[error("{0} is too long for a socket: set XDG_RUNTIME_DIR to a shorter path, or take a shorter name")]
    TooLong(PathBuf),
    /// A lab of this name runs.
    #[error("a lab named {0} is up already: `selvedge-lab down --name {0}` takes it down")]
    Busy(String),
}

impl Folder {
    /// The folder for the lab of that name, made if need be: under `XDG_RUNTIME_DIR`, else under `/tmp`.
    pub fn open(name: &str) -> Result<Self, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if name.is_empty() || name.len() > 40 || name.starts_with('.') || !name.chars().all(plain) {
            return Err(Error::Name(name.to_owned()));
        }
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
        let given = std::env::var_os(ROOT).map(PathBuf::from);
        let root = given.or_else(|| runtime.map(|runtime| runtime.join("selvedge-lab")));
        let root =
            root.unwrap_or_else(|| PathBuf::from(format!("/tmp/selvedge-lab-{}", nix::unistd::geteuid())));
        private(&root)?;
        let folder = Self { name: name.to_owned(), path: root.join(name) };
        private(&folder.path)?;
        match folder.socket().as_os_str().len() > SOCKET_LIMIT {
            true => Err(Error::TooLong(folder.socket())),
            false => Ok(folder),
        }
    }

    /// A folder that is there already, by its path.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self { name, path }
    }

    /// Name of the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket on which the lab takes commands.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// What the lab itself logs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join("lab.log")
    }

    /// Holds the folder for as long as the value lives: one lab at a time.
    pub fn lock(&self) -> Result<Flock<File>, Error> {
        let path = self.path.join("lock");
        let failed = |source| Error::Io { path: path.clone(), source };
        let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::Error::EWOULDBLOCK => Error::Busy(self.name.clone()),
            errno => failed(errno.into()),
        })
    }

    /// Removes what an earlier lab has left behind, but not the lock.
    pub fn clear(&self) -> Result<(), Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        for entry in std::fs::read_dir(&self.path).map_err(failed(&self.path))?.flatten() {
            let path = entry.path();
            if entry.file_name() == "lock" {
                continue;
            }
            let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(failed(&path))?;
        }
        Ok(())
    }

    /// Removes the folder and everything in it; gone already is fine.
    pub fn remove(&self) -> Result<(), Error> {
        match std::fs::remove_dir_all(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io { path: self.path.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

/// Makes a folder of mode 0700, or makes sure that the one there is such a folder and ours.
fn private(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    let ours = metadata.is_dir()
        && metadata.uid() == nix::unistd::geteuid().as_raw()
        && metadata.permissions().mode() & 0o077 == 0;
    if ours { Ok(()) } else { Err(Error::NotOurs(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_private_folder_of_ones_own_is_used() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("one");
        private(&path).unwrap();
        private(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(private(&path), Err(Error::NotOurs(_))));
        let link = root.path().join("link");
        std::os::unix::fs::symlink(root.path(), &link).unwrap();
        assert!(matches!(private(&link), Err(Error::NotOurs(_))));
    }

    #[test]
    fn one_lab_at_a_time_holds_a_folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path().to_owned());
        let held = folder.lock().unwrap();
        assert!(matches!(folder.lock(), Err(Error::Busy(_))));
        drop(held);
        drop(folder.lock().unwrap());
        std::fs::create_dir(root.path().join("nodes")).unwrap();
        folder.clear().unwrap();
        let left: Vec<_> = std::fs::read_dir(root.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["lock"]);
    }

    #[test]
    fn names_are_file_names() {
        for name in ["", ".", "..", "a/b", "a b", ".hidden", &"x".repeat(41)] {
            assert!(matches!(Folder::open(name), Err(Error::Name(_))), "{name}");
        }
    }
}
