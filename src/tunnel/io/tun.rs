//! One queue of a TUN device with offloads.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use super::sys::{InterfaceRequest, ioctl_descriptor, ioctl_pointer, ioctl_value};
use super::vnet;

const NODE: &str = "/dev/net/tun";
/// A persistent device keeps these for ever, so they are the same every time.
const FLAGS: u16 = flags(libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR);
const VNET_LEN: libc::c_int = 10;
const _: () = assert!(VNET_LEN as usize == vnet::LEN, "the kernel is told the length we use");
const UP: u16 = flags(libc::IFF_UP);

#[expect(clippy::cast_possible_truncation, reason = "the flags of an interface request have 16 bits")]
const fn flags(flags: libc::c_int) -> u16 {
    flags.cast_unsigned() as u16
}

/// The present name of the device that `queue` belongs to, and its network namespace: it may have been renamed or moved.
///
/// # Errors
/// `EBADFD` once the device is gone; `EPERM` without CAP_NET_ADMIN in the namespace.
pub fn place(queue: BorrowedFd<'_>) -> io::Result<(String, OwnedFd)> {
    let mut request = InterfaceRequest::empty();
    request.call(queue, libc::TUNGETIFF)?;
    Ok((request.name(), ioctl_descriptor(queue, libc::TUNGETDEVNETNS)?))
}

/// What the TUN takes and brings beyond plain packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offload {
    /// Packets with an unfinished transport checksum.
    pub checksum: bool,
    /// TCP super-packets.
    pub tso: bool,
    /// UDP super-packets (Linux 6.2).
    pub uso: bool,
}

/// One queue of a TUN device. The device goes when its last queue is closed, unless it is persistent.
#[derive(Debug)]
pub struct TunQueue {
    file: File,
    name: String,
    offload: Offload,
}

impl TunQueue {
    /// Opens a queue of the device `name`, which is created if it does not exist. With `%d` in the name the
    /// kernel numbers it.
    ///
    /// # Errors
    /// [`TunError`], each with its remedy.
    pub fn open(name: &str) -> Result<Self, TunError> {
        let mut request = InterfaceRequest::new(name)
            .filter(|_| !name.contains(['/', ':']) && !name.contains(char::is_whitespace))
            .ok_or_else(|| TunError::Name(name.into()))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(NODE)
            .map_err(|source| TunError::Node { remedy: node_remedy(&source), source })?;
        request.set_flags(FLAGS);
        request.call(&file, libc::TUNSETIFF).map_err(|source| TunError::Attach {
            name: name.into(),
            remedy: attach_remedy(&source),
            source,
        })?;
        Self::attached(file, request.name())
    }

    /// Takes a queue that another process opened.
    ///
    /// # Errors
    /// [`TunError::Setup`] if it is no attached TUN queue, or the kernel refuses to set it up.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, TunError> {
        let file = File::from(fd);
        let mut request = InterfaceRequest::empty();
        request.call(&file, libc::TUNGETIFF).map_err(|source| TunError::Setup {
            what: "asking for the name of",
            name: "inherited TUN descriptor".into(),
            source,
        })?;
        Self::attached(file, request.name())
    }

    fn attached(file: File, name: String) -> Result<Self, TunError> {
        ioctl_pointer(file.as_fd(), libc::TUNSETVNETHDRSZ, VNET_LEN).map_err(|source| TunError::Setup {
            what: "setting the offload header of",
            name: name.clone(),
            source,
        })?;
        let offload = probe(file.as_fd());
        Ok(Self { file, name, offload })
    }

    /// Makes the device stay when all its queues are closed, or no longer.
    ///
    /// # Errors
    /// [`TunError::Setup`].
    pub fn set_persistent(&self, persistent: bool) -> Result<(), TunError> {
        ioctl_value(self.file.as_fd(), libc::TUNSETPERSIST, persistent.into())
            .map_err(|source| self.failed("changing persistence of", source))
    }

    /// Sets the MTU, in bytes. The caller is in the device's network namespace.
    ///
    /// # Errors
    /// [`TunError::Setup`].
    pub fn set_mtu(&self, mtu: u16) -> Result<(), TunError> {
        self.interface(|request, socket| {
            request.set_mtu(mtu);
            request.call(socket, libc::SIOCSIFMTU)
        })
        .map_err(|source| self.failed("setting the MTU of", source))
    }

    /// The MTU, in bytes. The caller is in the device's network namespace.
    ///
    /// # Errors
    /// [`TunError::Setup`].
    pub fn mtu(&self) -> Result<u16, TunError> {
        self.interface(|request, socket| {
            request.call(socket, libc::SIOCGIFMTU)?;
            Ok(u16::try_from(request.mtu()).unwrap_or(u16::MAX))
        })
        .map_err(|source| self.failed("reading the MTU of", source))
    }

    /// Brings the device up. The caller is in the device's network namespace.
    ///
    /// # Errors
    /// [`TunError::Setup`].
    pub fn set_up(&self) -> Result<(), TunError> {
        self.interface(|request, socket| {
            request.call(socket, libc::SIOCGIFFLAGS)?;
            request.set_flags(request.flags() | UP);
            request.call(socket, libc::SIOCSIFFLAGS)
        })
        .map_err(|source| self.failed("bringing up", source))
    }

    fn interface<T>(
        &self,
        call: impl FnOnce(&mut InterfaceRequest, &OwnedFd) -> io::Result<T>,
    ) -> io::Result<T> {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM.cloexec(), None)?.into();
        let mut request = InterfaceRequest::new(&self.name).ok_or(io::ErrorKind::InvalidInput)?;
        call(&mut request, &socket)
    }

    fn failed(&self, what: &'static str, source: io::Error) -> TunError {
        TunError::Setup { what, name: self.name.clone(), source }
    }

    /// The device's name, as it was when the queue was opened.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the kernel agreed to.
    #[must_use]
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Reads one packet or super-packet behind its [`vnet`] header, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` if there is none; `EBADFD` once the device is gone.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one packet or super-packet behind its [`vnet`] header.
    ///
    /// # Errors
    /// `EIO` while the device is down, `EINVAL` for a super-packet that makes no sense to the kernel.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write(packet).map(drop)
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<TunQueue> for OwnedFd {
    fn from(queue: TunQueue) -> Self {
        queue.file.into()
    }
}

/// Asks for one offload after the other, keeping those that the kernel accepts.
fn probe(fd: BorrowedFd<'_>) -> Offload {
    let mut flags = 0;
    let mut ask = |more: u32| {
        let accepted = ioctl_value(fd, libc::TUNSETOFFLOAD, flags | more).is_ok();
        if accepted {
            flags |= more;
        }
        accepted
    };
    let checksum = ask(libc::TUN_F_CSUM);
    let tso = checksum && ask(libc::TUN_F_TSO4 | libc::TUN_F_TSO6);
    let _ = tso && ask(libc::TUN_F_TSO_ECN);
    let uso = tso && ask(libc::TUN_F_USO4 | libc::TUN_F_USO6);
    Offload { checksum, tso, uso }
}

fn node_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "load the module (modprobe tun) or, in a container, mount /dev/net/tun into it"
        }
        Some(libc::EACCES | libc::EPERM) => "run as root, or give this user access to the device node",
        _ => "see the error",
    }
}

fn attach_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "give the process CAP_NET_ADMIN",
        Some(libc::EBUSY | libc::EINVAL) => {
            "a device of that name exists and was made by something else or without multiple queues; delete it or \
             choose another name"
        }
        Some(libc::E2BIG) => "the device has all the queues it can have; is another tunnel running on it?",
        _ => "see the error",
    }
}

/// Why there is no TUN.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// Not a name for a device.
    #[error("{0:?} is no device name; take 1 to 15 bytes without '/', ':' or spaces")]
    Name(String),
    /// The device node.
    #[error("opening {NODE}: {source}; {remedy}")]
    Node {
        /// What to do.
        remedy: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The device itself.
    #[error("creating or attaching TUN device {name}: {source}; {remedy}")]
    Attach {
        /// Its name.
        name: String,
        /// What to do.
        remedy: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A step after that.
    #[error("{what} {name}: {source}")]
    Setup {
        /// The step.
        what: &'static str,
        /// The device.
        name: String,
        /// The cause.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_offloads_and_stays_only_if_told_to() {
        selvedge_lab::isolated!(|| {
            let exists = |name: &str| std::path::Path::new("/sys/class/net").join(name).exists();
            let tun = TunQueue::open("sel%d").unwrap();
            assert_eq!(tun.name(), "sel0");
            assert!(tun.offload().checksum && tun.offload().tso, "{:?}", tun.offload());
            tun.set_mtu(1380).unwrap();
            assert_eq!(tun.mtu().unwrap(), 1380);
            tun.set_up().unwrap();
            drop(tun);
            assert!(!exists("sel0"), "gone with its queue");

            let tun = TunQueue::open("sel1").unwrap();
            tun.set_persistent(true).unwrap();
            let second = TunQueue::open("sel1").unwrap();
            drop((tun, second));
            assert!(exists("sel1"), "persistent");
            let tun = TunQueue::open("sel1").unwrap();
            let tun = TunQueue::from_fd(tun.into()).unwrap();
            assert_eq!(tun.name(), "sel1");
            assert_eq!(tun.read(&mut [0; 100]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            tun.set_persistent(false).unwrap();
            drop(tun);
            assert!(!exists("sel1"), "no longer persistent");
        });
    }

    #[test]
    fn what_cannot_be_opened_is_named_with_its_remedy() {
        selvedge_lab::isolated!(|| {
            for name in ["", "a/b", "sixteen-bytes-xx", "a b"] {
                assert!(matches!(TunQueue::open(name), Err(TunError::Name(_))), "{name}");
            }
            let error = TunQueue::open("lo").unwrap_err().to_string();
            assert!(error.contains("delete it or choose another name"), "{error}");
            let plain = File::open("/dev/null").unwrap();
            assert!(matches!(TunQueue::from_fd(plain.into()), Err(TunError::Setup { .. })));
        });
    }
}
