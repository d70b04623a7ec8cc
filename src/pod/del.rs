//! DEL: whatever there is of an interface goes; nothing there is fine.

use super::attachment::Attachment;
use super::error::{Code, Error};
use super::lease::Leases;
use super::node::NodeInfo;
use super::release::release;
use crate::kernel::netlink::Netlink;
use crate::paths::Paths;

/// Removes the interface and gives its addresses back. Works without the pod's namespace and without the agent.
pub(super) async fn run(paths: &Paths, attachment: &Attachment) -> Result<(), Error> {
    // Without it all that is leased counts as this node's.
    let node = NodeInfo::load(paths).ok();
    let leases = Leases::new(paths.leases());
    let errors = release(&Netlink::new()?, &leases, node.as_ref(), attachment).await;
    if errors.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::Kernel, "not all of the interface could be removed", errors.join("; ")))
}
