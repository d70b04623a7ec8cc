//! DEL: whatever there is of an interface goes; nothing there is fine.

use super::attachment::Attachment;
use super::error::{Code, Error};
use super::lease::Leases;
use super::release::release;
use crate::kernel::netlink::Netlink;
use crate::paths::Paths;

/// Removes the interface and gives its addresses back. Works without the pod's namespace and without the agent.
pub(super) async fn run(paths: &Paths, attachment: &Attachment) -> Result<(), Error> {
    let errors = release(&Netlink::new()?, &Leases::new(paths.leases()), attachment).await;
    if errors.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::Kernel, "not all of the interface could be removed", errors.join("; ")))
}
