//! Conntrack's settings for a node that serves Services, as kube-proxy sets them: room for many connections, and timeouts that
//! fit long silences.

use crate::config::Conntrack;
use crate::kernel::sysctl::{self, Error};

const MAX: &str = "netfilter/nf_conntrack_max";
const ESTABLISHED: &str = "netfilter/nf_conntrack_tcp_timeout_established";
const CLOSE_WAIT: &str = "netfilter/nf_conntrack_tcp_timeout_close_wait";

/// How many connections there may be for each core, and at least.
const PER_CORE: u32 = 32_768;
const LEAST: u32 = 131_072;

/// What was changed, and what could not be.
#[derive(Debug, Default)]
pub struct Done {
    /// The settings that have another value now.
    pub changed: Vec<String>,
    /// The settings that are not as wanted. The limit of connections is the machine's, so it cannot be raised from a network
    /// namespace.
    pub refused: Vec<Error>,
}

/// Makes the settings of the calling thread's network namespace as wanted; `cores` is how many the machine has.
#[must_use]
pub fn apply(wanted: &Conntrack, cores: u32) -> Done {
    settings(wanted, cores, sysctl::read, sysctl::write)
}

fn settings(
    wanted: &Conntrack,
    cores: u32,
    read: impl Fn(&str) -> Result<String, Error>,
    mut write: impl FnMut(&str, &str) -> Result<(), Error>,
) -> Done {
    let most = wanted.max.unwrap_or_else(|| PER_CORE.saturating_mul(cores).max(LEAST));
    let mut done = Done::default();
    for (key, value, may_be_more) in [
        (MAX, most, true),
        (ESTABLISHED, wanted.tcp_established_timeout, false),
        (CLOSE_WAIT, wanted.tcp_close_wait_timeout, false),
    ] {
        let is_right = |now: u32| now == value || (may_be_more && now > value);
        let set = read(key).and_then(|now| match value == 0 || now.parse().is_ok_and(is_right) {
            true => Ok(false),
            false => write(key, &value.to_string()).map(|()| true),
        });
        match set {
            Ok(changed) => done.changed.extend(changed.then(|| key.to_owned())),
            Err(error) => done.refused.push(error),
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::*;

    /// The values after it, from `before`; a limit below 0 cannot be written.
    fn after(wanted: &Conntrack, before: [u32; 3], is_writable: bool) -> ([u32; 3], usize, usize) {
        let keys = [MAX, ESTABLISHED, CLOSE_WAIT];
        let values = RefCell::new(keys.into_iter().zip(before).collect::<BTreeMap<_, _>>());
        let read = |key: &str| Ok(values.borrow()[key].to_string());
        let write = |key: &str, value: &str| {
            if key == MAX && !is_writable {
                let source = std::io::ErrorKind::PermissionDenied.into();
                return Err(Error::Write { key: key.into(), value: value.into(), source });
            }
            *values.borrow_mut().get_mut(key).unwrap() = value.parse().unwrap();
            Ok(())
        };
        let done = settings(wanted, 8, read, write);
        (keys.map(|key| values.borrow()[key]), done.changed.len(), done.refused.len())
    }

    #[test]
    fn the_limit_is_raised_and_never_lowered() {
        let kernel = [65_536, 432_000, 60];
        assert_eq!(after(&Conntrack::default(), kernel, true), ([262_144, 86_400, 3_600], 3, 0));
        assert_eq!(
            after(&Conntrack::default(), [1_000_000, 86_400, 60], true),
            ([1_000_000, 86_400, 3_600], 1, 0)
        );
        let more = Conntrack { max: Some(500_000), ..Conntrack::default() };
        assert_eq!(after(&more, kernel, true).0[0], 500_000);
    }

    #[test]
    fn what_is_refused_does_not_keep_the_rest_from_being_set() {
        assert_eq!(after(&Conntrack::default(), [65_536, 1, 1], false), ([65_536, 86_400, 3_600], 2, 1));
    }

    #[test]
    fn nothing_is_touched_where_that_is_wanted() {
        let none = Conntrack { max: Some(0), tcp_established_timeout: 0, tcp_close_wait_timeout: 0 };
        assert_eq!(after(&none, [1, 2, 3], true), ([1, 2, 3], 0, 0));
    }
}
