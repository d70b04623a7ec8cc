//! DEL: whatever there is of an interface goes; nothing there is fine.

use super::attachment::Attachment;
use super::error::{Code, Error};
use super::lease::Leases;
use super::{hostport, plugin, wiring};
use crate::kernel::netlink::Netlink;
use crate::paths::Paths;

/// Removes the interface and gives its addresses back. Works without the pod's namespace and without the agent.
pub(super) async fn run(paths: &Paths, attachment: &Attachment) -> Result<(), Error> {
    let errors = release(&plugin::netlink()?, &Leases::new(paths.leases()), attachment).await;
    if errors.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::Kernel, "not all of the interface could be removed", errors.join("; ")))
}

/// The same; gives what went wrong. The addresses stay leased until nothing uses them: a later DEL or GC tries again.
pub(super) async fn release(netlink: &Netlink, leases: &Leases, attachment: &Attachment) -> Vec<String> {
    let errors = wiring::remove(netlink, attachment).await;
    if !errors.is_empty() {
        return errors.iter().map(ToString::to_string).collect();
    }
    let given_back = || {
        let locked = leases.lock()?;
        hostport::close(&locked, attachment)?;
        Ok::<_, hostport::Error>(locked.give_back(attachment)?)
    };
    given_back().err().iter().map(ToString::to_string).collect()
}
