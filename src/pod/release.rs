//! Takes one pod interface apart.

use super::attachment::Attachment;
use super::lease::Leases;
use super::node::NodeInfo;
use super::{hostport, wiring};
use crate::kernel::netlink::Netlink;

/// Removes an interface and gives its addresses back; returns what went wrong. The addresses stay leased until nothing
/// uses them: a later DEL or GC tries again.
pub(super) async fn release(
    netlink: &Netlink,
    leases: &Leases,
    node: Option<&NodeInfo>,
    attachment: &Attachment,
) -> Vec<String> {
    let errors = wiring::remove(netlink, attachment).await;
    if !errors.is_empty() {
        return errors.iter().map(ToString::to_string).collect();
    }
    let given_back = || {
        let locked = leases.lock()?;
        // What a lease had that is lost or can't be read is closed by the next repair or GC.
        let lease = leases.find(attachment).ok().flatten();
        hostport::close(&locked, node, lease.as_slice())?;
        Ok::<_, hostport::Error>(locked.give_back(attachment)?)
    };
    given_back().err().iter().map(ToString::to_string).collect()
}
