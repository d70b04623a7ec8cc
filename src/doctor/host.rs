//! The node's files, below a root that tests, and containers with the node's files mounted, choose.

use std::io;
use std::path::{Path, PathBuf};

/// Where the node's root is. Reads only; what cannot be read is absent, but for [`Host::try_read`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// The node whose `/` is at `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the node's file `path` is.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The content of a file.
    ///
    /// # Errors
    /// As the system says.
    pub fn try_read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        let bytes = std::fs::read(self.path(path))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The content of a file without white space at its ends; nothing when it cannot be read.
    #[must_use]
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        self.try_read(path).ok().map(|text| text.trim().to_owned())
    }

    /// The value of a key below `/proc/sys/net`.
    #[must_use]
    pub fn sysctl(&self, key: &str) -> Option<String> {
        self.try_sysctl(key).ok()
    }

    /// The value of a key below `/proc/sys/net`.
    ///
    /// # Errors
    /// As the system says.
    pub fn try_sysctl(&self, key: &str) -> io::Result<String> {
        self.try_read(Path::new("/proc/sys/net").join(key)).map(|text| text.trim().to_owned())
    }

    /// Whether there is such a file or folder.
    #[must_use]
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// Whether there is such a file or folder.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn try_exists(&self, path: impl AsRef<Path>) -> io::Result<bool> {
        is_there(&self.path(path))
    }

    /// The names in a folder, sorted; none when it cannot be read.
    #[must_use]
    pub fn list(&self, folder: impl AsRef<Path>) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        names
    }
}

/// Whether there is such a file or folder.
///
/// # Errors
/// When that cannot be told.
pub(super) fn is_there(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A folder that stands for a node's root, for tests.
#[cfg(test)]
pub(super) struct Fake {
    pub(super) host: Host,
    folder: tempfile::TempDir,
}

#[cfg(test)]
impl Fake {
    /// With these files.
    pub(super) fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fake = Self { host: Host::new(folder.path()), folder };
        files.iter().for_each(|(path, content)| fake.write(path, content));
        fake
    }

    pub(super) fn write(&self, path: &str, content: &str) {
        let path = self.folder.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_below_the_root() {
        let fake = Fake::with(&[("/etc/a", "1\n"), ("/etc/b", "")]);
        assert_eq!(fake.host.read("/etc/a").as_deref(), Some("1"));
        assert_eq!(fake.host.list("/etc"), ["a", "b"]);
        assert!(!fake.host.exists("/etc/passwd") && fake.host.read("/etc/passwd").is_none());
        assert_eq!(Host::new("/").path("/etc/a"), Path::new("/etc/a"));
    }
}
