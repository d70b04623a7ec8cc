//! Pods that are gone without a DEL: a runtime lost its state, or somebody deleted namespaces. Their leases are released,
//! with their host ports and rules.
//!
//! A lease's pod is gone when both its port and its network namespace are: the kernel removes the port with the
//! namespace. ADD judges that, because the plugin runs where the runtime does. The agent may be in a container that sees no
//! pod's namespace.

use std::io;
use std::path::Path;

use super::hostport;
use super::lease::{Lease, Leases, Locked};
use super::node::NodeInfo;
use super::spoof;
use crate::kernel::netns::{self, NetNs};
use crate::kernel::{clock, link};

/// What could not be released.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Leases or host ports.
    #[error(transparent)]
    HostPort(#[from] hostport::Error),
    /// Rules against spoofing.
    #[error(transparent)]
    Spoof(#[from] spoof::Error),
    /// The clock.
    #[error("the time since boot: {0}")]
    Clock(#[from] io::Error),
}

/// Releases the leases of pods that have been gone for the time of grace, and gives the number of those that have been gone
/// for less. `own` is the network namespace of the pod that is being added, as the runtime names it.
pub(super) fn release(leases: &Leases, node: &NodeInfo, own: &Path) -> Result<usize, Error> {
    let sight = Sight { own };
    if !leases.may_expire(is_missing, |lease| sight.is_gone(lease)).map_err(hostport::Error::from)? {
        return Ok(0);
    }
    // Under the lock no other ADD can get a lease, and so no port that is missing now can come.
    let locked = leases.lock().map_err(hostport::Error::from)?;
    let (all, _) = locked.list().map_err(hostport::Error::from)?;
    let ports = all.iter().map(|lease| (lease, lease.attachment.port().name));
    let gone = ports.filter(|(lease, port)| is_missing(port) && sight.is_gone(lease)).map(|(_, port)| port);
    let (expired, waiting) =
        locked.expire(&gone.collect(), clock::since_boot()?).map_err(hostport::Error::from)?;
    if !expired.is_empty() {
        take_apart(&locked, node, &expired)?;
    }
    Ok(waiting)
}

/// An ADD that is under way has a lease and no port yet, but its pod's namespace is there.
fn is_missing(port: &str) -> bool {
    matches!(link::exists(port), Ok(false))
}

/// What is left of such pods on the node, in few transactions however many there are; the leases last.
fn take_apart(locked: &Locked, node: &NodeInfo, expired: &[Lease]) -> Result<(), Error> {
    spoof::unprotect_all(&expired.iter().map(|lease| lease.attachment.port().name).collect())?;
    hostport::close(locked, Some(node), expired)?;
    for lease in expired {
        locked.give_back(&lease.attachment).map_err(hostport::Error::from)?;
    }
    Ok(())
}

/// What can be seen of network namespaces from here.
struct Sight<'a> {
    own: &'a Path,
}

impl Sight<'_> {
    fn is_gone(&self, lease: &Lease) -> bool {
        if !self.sees(&lease.netns) {
            return false;
        }
        match NetNs::open(&lease.netns) {
            // Another one of the same path.
            Ok(found) => lease.netns_id.is_some() && found.id() != lease.netns_id,
            Err(netns::Error::NotNetwork(_)) => true,
            Err(netns::Error::Open { source, .. }) => source.kind() == io::ErrorKind::NotFound,
            Err(_) => false,
        }
    }

    /// That there is nothing at `path` means something only where namespaces are to be seen in the same place: a runtime
    /// may keep them where this process does not look, in a folder or in a /proc of its own.
    fn sees(&self, path: &Path) -> bool {
        if path.starts_with("/proc") {
            return self.own.starts_with("/proc");
        }
        path.parent().is_some_and(|folder| self.own.parent() == Some(folder) || has_namespace(folder))
    }
}

fn has_namespace(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    files.into_iter().any(|entry| NetNs::open(entry.path()).is_ok())
}
