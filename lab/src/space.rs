//! The namespaces of a node: network, mounts and host name, and how programs are started in them.
//!
//! In its mount namespace a node has a `/run` of its own, as after a boot, and there, as `/run/node`, the folder
//! that is its disk. The rest of the file system is the host's.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use selvedge::kernel::netns::{self, NetNs};

/// Where a node's processes see the node's disk.
pub const DISK: &str = "/run/node";

/// The namespaces of one node. They live as long as this value or a process in them.
#[derive(Debug)]
pub struct Space {
    net: NetNs,
    files: Arc<Files>,
}

#[derive(Debug)]
struct Files {
    net: File,
    mounts: File,
    host: File,
}

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step of making it failed.
    #[error("make the namespaces of {name}: {step}: {source}")]
    Make {
        /// Of what.
        name: String,
        /// The step.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Entering failed.
    #[error("enter the namespaces of a node: {0}")]
    Enter(#[source] io::Error),
    /// The network namespace could not be opened.
    #[error(transparent)]
    Net(#[from] netns::Error),
}

impl Space {
    /// New namespaces for a node with the given name and disk; loopback is up.
    pub fn create(name: &str, disk: &Path) -> Result<Self, Error> {
        Self::create_with(name, disk, &|| Ok(()))
    }

    /// As [`Space::create`]; `more` mounts what this node has of its own beyond that.
    pub fn create_with(
        name: &str,
        disk: &Path,
        more: &(dyn Fn() -> io::Result<()> + Sync),
    ) -> Result<Self, Error> {
        let failed = |step| move |source: io::Error| Error::Make { name: name.to_owned(), step, source };
        on_a_thread(|| {
            let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
            unshare(flags).map_err(io::Error::from).map_err(failed("unshare"))?;
            furnish(disk).and_then(|()| more()).map_err(failed("mount"))?;
            nix::unistd::sethostname(name).map_err(io::Error::from).map_err(failed("set the host name"))?;
            crate::isolate::loopback_up().map_err(failed("bring loopback up"))?;
            let open =
                |kind: &str| File::open(format!("/proc/thread-self/ns/{kind}")).map_err(failed("open"));
            let files = Arc::new(Files { net: open("net")?, mounts: open("mnt")?, host: open("uts")? });
            Ok(Self { net: NetNs::current()?, files })
        })
    }

    /// Its network namespace.
    #[must_use]
    pub fn net(&self) -> &NetNs {
        &self.net
    }

    /// Runs `body` in the node's network and mount namespaces, on a thread of its own.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_a_thread(|| {
            // A thread may change its mount namespace once it shares no root and working folder with others.
            unshare(CloneFlags::CLONE_FS).map_err(|errno| Error::Enter(errno.into()))?;
            self.files.enter().map_err(Error::Enter)?;
            Ok(body())
        })
    }

    /// Makes `command` run in all of them.
    pub fn place<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let files = self.files.clone();
        // SAFETY: between fork and exec only system calls on open descriptors are made.
        #[expect(unsafe_code, reason = "namespaces have to be entered between fork and exec")]
        unsafe {
            command.pre_exec(move || files.enter())
        }
    }

    /// The network, mount and host name namespaces, to be sent to another process.
    #[must_use]
    pub fn files(&self) -> [&File; 3] {
        [&self.files.net, &self.files.mounts, &self.files.host]
    }
}

impl Files {
    fn enter(&self) -> io::Result<()> {
        setns(&self.mounts, CloneFlags::CLONE_NEWNS)?;
        setns(&self.net, CloneFlags::CLONE_NEWNET)?;
        setns(&self.host, CloneFlags::CLONE_NEWUTS)?;
        Ok(())
    }
}

/// Mounts what a node has of its own. `/sys` is only a place to keep the disk until `/run` is there: it is mounted
/// anew in the end, because it shows the devices of the network namespace that it was mounted in.
fn furnish(disk: &Path) -> io::Result<()> {
    let none = None::<&str>;
    let (private, bind) = (MsFlags::MS_REC | MsFlags::MS_PRIVATE, MsFlags::MS_BIND | MsFlags::MS_REC);
    mount(none, "/", none, private, none)?;
    mount(Some(disk), "/sys", none, bind, none)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))?;
    std::fs::create_dir(DISK)?;
    mount(Some("/sys"), DISK, none, MsFlags::MS_MOVE, none)?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)?;
    Ok(())
}

pub(crate) fn on_a_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(body).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_its_own_run_disk_name_and_network() {
        crate::isolated!(|| {
            let disk = Path::new("/run/disk");
            std::fs::create_dir(disk).unwrap();
            std::fs::write("/run/mine", "").unwrap();
            let space = Space::create("n1", disk).unwrap();
            let seen = space.run(|| {
                std::fs::write("/run/node/kept", "on disk").unwrap();
                std::fs::write("/run/lost", "").unwrap();
                (Path::new("/run/mine").exists(), std::fs::read_dir("/sys/class/net").unwrap().count())
            });
            assert_eq!(seen.unwrap(), (false, 1));
            assert_eq!(std::fs::read_to_string(disk.join("kept")).unwrap(), "on disk");
            assert!(!Path::new("/run/lost").exists());
            let output =
                space.place(Command::new("/bin/cat").arg("/proc/sys/kernel/hostname")).output().unwrap();
            assert_eq!(output.stdout, b"n1\n");
            assert!(!space.net().is_same(&NetNs::current().unwrap()));
        });
    }
}
