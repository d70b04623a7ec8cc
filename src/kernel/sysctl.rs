//! `/proc/sys/net` of the calling thread's network namespace.
//!
//! Keys have slashes, as `ipv4/conf/eth0.1/rp_filter`, because device names may contain dots. Where namespaces
//! matter, call it inside [`NetNs::run`](super::netns::NetNs::run).
//!
//! Container runtimes mount `/proc/sys` read-only. A process in such a container is given the node's `/proc/sys/net`
//! in another place, and `SELVEDGE_SYSCTL_DIR` names what stands there for `/proc/sys`: the files there too are those
//! of the namespace of whoever opens them.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use crate::paths::Paths;

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| Paths::from_env().sysctl.join("net"));

/// What could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed; the key is unknown, for example because the device is gone or IPv6 is off.
    #[error("read sysctl net/{key}: {source}")]
    Read {
        /// The key.
        key: String,
        /// Why.
        source: io::Error,
    },
    /// Writing failed.
    #[error("set sysctl net/{key} to {value}: {source}{}", remedy(.source))]
    Write {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// The key would leave `/proc/sys/net`.
    #[error("`{0}` is no sysctl key")]
    Key(String),
}

impl Error {
    /// Whether the key does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
            }
            Self::Key(_) => false,
        }
    }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "; it is mounted read-only here: mount the node's /proc/sys/net elsewhere and set SELVEDGE_SYSCTL_DIR"
        }
        io::ErrorKind::PermissionDenied => "; CAP_NET_ADMIN in this namespace is needed",
        _ => "",
    }
}

/// The value of `key`, without the newline.
pub fn read(key: &str) -> Result<String, Error> {
    let text =
        std::fs::read_to_string(path(key)?).map_err(|source| Error::Read { key: key.to_owned(), source })?;
    Ok(text.trim_end().to_owned())
}

/// Writes `value` to `key`.
pub fn write(key: &str, value: &str) -> Result<(), Error> {
    let failed = |source| Error::Write { key: key.to_owned(), value: value.to_owned(), source };
    std::fs::write(path(key)?, value).map_err(failed)
}

/// Makes `key` have `value`; tells whether that was a change. Does not write what is right already, so it works on
/// a read-only `/proc/sys` that somebody else prepared.
pub fn ensure(key: &str, value: &str) -> Result<bool, Error> {
    if read(key)? == value {
        return Ok(false);
    }
    write(key, value)?;
    Ok(true)
}

/// [`ensure`] for several keys, in order; stops at the first that fails. Gives the keys that were changed.
pub fn ensure_all<K: AsRef<str>>(
    settings: impl IntoIterator<Item = (K, &'static str)>,
) -> Result<Vec<String>, Error> {
    let mut changed = Vec::new();
    for (key, value) in settings {
        if ensure(key.as_ref(), value)? {
            changed.push(key.as_ref().to_owned());
        }
    }
    Ok(changed)
}

fn path(key: &str) -> Result<PathBuf, Error> {
    let relative = Path::new(key);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    match plain && !key.is_empty() {
        true => Ok(ROOT.join(relative)),
        false => Err(Error::Key(key.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netns::NetNs;

    #[test]
    fn belongs_to_the_namespace_of_the_thread() {
        selvedge_lab::isolated!(|| {
            let other = NetNs::create().unwrap();
            assert!(other.run(|| ensure("ipv4/ip_forward", "1")).unwrap().unwrap());
            assert!(!other.run(|| ensure("ipv4/ip_forward", "1")).unwrap().unwrap());
            assert_eq!(read("ipv4/ip_forward").unwrap(), "0");
        });
    }

    /// What `SELVEDGE_SYSCTL_DIR` relies on.
    #[test]
    fn a_second_mount_belongs_to_the_namespace_of_who_opens_it() {
        selvedge_lab::isolated!(|| {
            let folder = tempfile::tempdir().unwrap();
            let bind = nix::mount::MsFlags::MS_BIND;
            nix::mount::mount(Some("/proc/sys/net"), folder.path(), None::<&str>, bind, None::<&str>)
                .unwrap();
            let file = folder.path().join("ipv4/ip_forward");
            let other = NetNs::create().unwrap();
            other.run(|| std::fs::write(&file, "1")).unwrap().unwrap();
            assert_eq!(other.run(|| std::fs::read_to_string(&file)).unwrap().unwrap(), "1\n");
            assert_eq!(other.run(|| read("ipv4/ip_forward")).unwrap().unwrap(), "1");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "0\n");
            nix::mount::umount(folder.path()).unwrap();
        });
    }

    #[test]
    fn errors_name_the_key() {
        let missing = ensure("ipv4/conf/no-such-device/forwarding", "1").unwrap_err();
        assert!(missing.is_missing());
        assert!(missing.to_string().contains("net/ipv4/conf/no-such-device/forwarding"), "{missing}");
        for key in ["", "../kernel/hostname", "/etc/passwd"] {
            assert!(matches!(read(key), Err(Error::Key(_))), "{key}");
        }
    }
}
