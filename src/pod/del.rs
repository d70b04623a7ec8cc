//! DEL: whatever there is of an interface goes; nothing there is fine.

use super::attachment::Attachment;
use super::error::{Code, Error};
use super::lease::Leases;
use super::{plugin, wiring};
use crate::paths::Paths;

/// Removes the interface and gives its addresses back. Works without the pod's namespace and without the agent.
pub(super) async fn run(paths: &Paths, attachment: &Attachment) -> Result<(), Error> {
    let leases = Leases::new(paths.leases());
    let errors = wiring::remove(&plugin::netlink()?, attachment).await;
    if !errors.is_empty() {
        // The addresses stay leased until nothing uses them.
        let reasons: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(Error::new(
            Code::Kernel,
            "not all of the interface could be removed",
            reasons.join("; "),
        ));
    }
    Ok(leases.lock()?.give_back(attachment)?)
}
