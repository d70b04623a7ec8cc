//! What can go wrong between us and nftables.

use std::io;

/// An nftables operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to talk to nftables.
    #[error("nftables: cannot {action}: {source}{}", hint(source))]
    Socket {
        /// What was being done.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel refused a step; nothing of the transaction was done.
    #[error("nftables: cannot {step}: {source}{}{}", detail(text.as_ref()), hint(source))]
    Refused {
        /// The step, with the object's name.
        step: String,
        /// The system's error.
        source: io::Error,
        /// The kernel's own words, if it had any.
        text: Option<String>,
    },
    /// A step does not fit a netlink message.
    #[error("nftables: a step is too long for one netlink message")]
    TooLong,
    /// Others changed the ruleset each time between reading and writing.
    #[error("nftables: the ruleset keeps changing under our hands; try again")]
    Busy,
    /// Internal to [`apply`](super::apply): others changed the ruleset between reading and writing.
    #[error("nftables: the ruleset has changed since it was read")]
    Conflict,
}

fn detail(text: Option<&String>) -> String {
    text.map(|text| format!(" ({text})")).unwrap_or_default()
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; it takes CAP_NET_ADMIN in this network namespace",
        Some(libc::EPROTONOSUPPORT) => "; this kernel has no nftables (CONFIG_NF_TABLES)",
        Some(libc::EOPNOTSUPP) => "; this kernel lacks a part of nftables (modules nf_tables, nft_*)",
        _ => "",
    }
}
