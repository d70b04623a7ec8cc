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
    /// The kernel does not have what an [`Update`](super::Update) takes for granted (no such table, set or element; an
    /// element that is there already; another generation), or it is not known whether it was done. Compare the whole
    /// table: [`apply`](super::apply).
    #[error("nftables: cannot {step}: {source}; the table is not what was assumed")]
    Stale {
        /// The step, with the object's name.
        step: String,
        /// The system's error.
        source: io::Error,
    },
    /// A step does not fit a netlink message.
    #[error("nftables: a step is too long for one netlink message")]
    TooLong,
    /// Others changed the ruleset each time between reading and writing.
    #[error("nftables: the ruleset changed during every one of {} attempts", super::ATTEMPTS)]
    Busy,
    /// Internal to [`apply`](super::apply): others changed the ruleset between reading and writing.
    #[error("nftables: the ruleset has changed since it was read")]
    Conflict,
}

impl Error {
    /// What an update's refusal means: those of its assumptions are stale.
    pub(super) fn of_update(self) -> Self {
        match self {
            Self::Refused { step, source, .. } if is_about_presence(&source) => Self::Stale { step, source },
            Self::Conflict => {
                Self::Stale { step: "commit".into(), source: io::Error::from_raw_os_error(libc::ERESTART) }
            }
            error => error,
        }
    }
}

/// Something is not there, is there already, or overlaps what is there.
fn is_about_presence(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EEXIST | libc::EBUSY | libc::ENOTEMPTY))
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
