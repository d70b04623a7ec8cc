//! Network namespaces as values.
//!
//! A namespace belongs to a thread. [`NetNs::run`] enters it on a thread of its own, so the caller never changes
//! namespace; a socket made inside keeps belonging to it when used outside.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;

const OWN: &str = "/proc/thread-self/ns/net";

/// An open network namespace; it lives at least as long as this value.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    name: PathBuf,
}

/// What could not be done with a namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path names nothing that can be opened.
    #[error("open network namespace {}: {source}", path.display())]
    Open {
        /// The path given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path names a file that is no network namespace.
    #[error("{} is no network namespace", .0.display())]
    NotNetwork(PathBuf),
    /// Entering failed: usually missing CAP_SYS_ADMIN.
    #[error("enter network namespace {}: {source}", path.display())]
    Enter {
        /// Where it was opened.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Making, naming or removing one failed.
    #[error("{what} network namespace {}: {source}", path.display())]
    Make {
        /// The step that failed.
        what: &'static str,
        /// Its name.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl NetNs {
    /// Opens the namespace that `path` (a bind mount, or a file under `/proc/PID/ns`) stands for.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let name = path.as_ref().to_owned();
        let file = File::open(&name).map_err(|source| Error::Open { path: name.clone(), source })?;
        match namespace_kind(file.as_fd()) {
            Some(libc::CLONE_NEWNET) => Ok(Self { file, name }),
            _ => Err(Error::NotNetwork(name)),
        }
    }

    /// The namespace that `descriptor` stands for.
    #[must_use]
    pub fn of_descriptor(descriptor: OwnedFd) -> Self {
        let name = PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
        Self { file: descriptor.into(), name }
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, Error> {
        Self::open(OWN)
    }

    /// A new namespace without a name: it is gone when this value and everything in it are gone. Loopback is down.
    pub fn create() -> Result<Self, Error> {
        let made = Self::create_with(|| Ok(()), Path::new("(unnamed)"))?;
        Ok(Self { name: PathBuf::from(format!("/proc/self/fd/{}", made.file.as_raw_fd())), ..made })
    }

    /// A new namespace bind-mounted at `path`, as `ip netns` and container runtimes do it; the folder is made.
    pub fn create_named(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let failed = |what, source| Error::Make { what, path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| failed("make the folder of", source))?;
        }
        File::create_new(path).map_err(|source| failed("make the file of", source))?;
        let bind = || {
            nix::mount::mount(Some(OWN), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .map_err(|errno| failed("mount", errno.into()))
        };
        Self::create_with(bind, path).inspect_err(|_| {
            let _ = std::fs::remove_file(path);
        })
    }

    fn create_with(then: impl FnOnce() -> Result<(), Error> + Send, name: &Path) -> Result<Self, Error> {
        on_a_thread(|| {
            let failed = |source: io::Error| Error::Make { what: "create", path: name.to_owned(), source };
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
            then()?;
            let file = File::open(OWN).map_err(failed)?;
            Ok(Self { file, name: name.to_owned() })
        })
    }

    /// Takes the name at `path` away; the namespace goes when nothing uses it any more. Gone already is fine.
    pub fn remove_named(path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let failed = |what, source| Error::Make { what, path: path.to_owned(), source };
        match nix::mount::umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::ENOENT | nix::Error::EINVAL) => {}
            Err(errno) => return Err(failed("unmount", errno.into())),
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", error)),
            _ => Ok(()),
        }
    }

    /// Runs `body` inside, on a thread of its own, and gives its result.
    ///
    /// A panic in `body` goes on in the caller. It blocks: keep it short in async code, and never await inside.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_a_thread(|| {
            nix::sched::setns(&self.file, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::Enter { path: self.name.clone(), source: errno.into() })?;
            Ok(body())
        })
    }

    /// Where it was opened; for messages.
    #[must_use]
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Whether both are the same namespace.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.id().is_some() && self.id() == other.id()
    }

    /// Device and inode of the namespace, which identify it while it lives.
    #[must_use]
    pub fn id(&self) -> Option<(u64, u64)> {
        self.file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
    }

    /// The number that netlink wants (`IFLA_NET_NS_FD`).
    pub(crate) fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<NetNs> for OwnedFd {
    fn from(ns: NetNs) -> Self {
        ns.file.into()
    }
}

fn on_a_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(body).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// `CLONE_NEW*` of the namespace that `file` is, if it is one (`NS_GET_NSTYPE`, ioctl_nsfs(2)).
fn namespace_kind(file: BorrowedFd<'_>) -> Option<i32> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    #[expect(unsafe_code, reason = "no crate wraps this ioctl")]
    // SAFETY: the descriptor is open, and this request takes no argument and writes no memory.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) };
    (kind >= 0).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Vec<String> {
        let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        table.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
    }

    #[test]
    fn a_socket_made_inside_belongs_there() {
        selvedge_lab::isolated!(|| {
            let (here, other) = (NetNs::current().unwrap(), NetNs::create().unwrap());
            assert!(!here.is_same(&other));
            // Loopback is up here and down in a new namespace, so binding works in both but only one can talk.
            let inside = other.run(|| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
            assert!(inside.send_to(b"x", "127.0.0.1:9").is_err());
            assert!(NetNs::current().unwrap().is_same(&here));
            assert_eq!(other.run(devices).unwrap(), ["lo"]);
        });
    }

    #[test]
    fn names_come_and_go() {
        selvedge_lab::isolated!(|| {
            let path = "/run/netns/one";
            let made = NetNs::create_named(path).unwrap();
            assert!(matches!(NetNs::create_named(path), Err(Error::Make { .. })));
            assert!(NetNs::open(path).unwrap().is_same(&made));
            NetNs::remove_named(path).unwrap();
            NetNs::remove_named(path).unwrap();
            assert!(matches!(NetNs::open(path), Err(Error::Open { .. })));
        });
    }

    #[test]
    fn only_network_namespaces_open() {
        assert!(matches!(NetNs::open("/proc/self/ns/mnt"), Err(Error::NotNetwork(_))));
        assert!(matches!(NetNs::open("/proc/self/status"), Err(Error::NotNetwork(_))));
    }

    #[test]
    fn a_panic_inside_goes_on_outside() {
        selvedge_lab::isolated!(|| {
            let ns = NetNs::create().unwrap();
            let result =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ns.run(|| panic!("inside"))));
            assert!(result.is_err());
        });
    }
}
