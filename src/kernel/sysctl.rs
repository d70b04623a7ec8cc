//! `/proc/sys/net` of the calling thread's network namespace.
//!
//! Keys have slashes, as `ipv4/conf/eth0.1/rp_filter`, because device names may contain dots. Where namespaces
//! matter, call it inside [`NetNs::run`](super::netns::NetNs::run).

use std::io;
use std::path::{Component, Path, PathBuf};

const ROOT: &str = "/proc/sys/net";

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
            "; /proc/sys is mounted read-only here: run privileged, or mount the host's /proc/sys/net writable"
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
        true => Ok(Path::new(ROOT).join(relative)),
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
