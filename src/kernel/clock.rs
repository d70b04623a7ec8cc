//! Whether somebody keeps the clock right, and the clock that nobody sets.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since boot, with the time that the machine slept (`CLOCK_BOOTTIME`, clock_gettime(2)).
///
/// # Errors
/// When the kernel does not have that clock.
pub fn since_boot() -> std::io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}

/// Whether the kernel takes its clock to be synchronised: a time daemon has told it so (adjtimex(2)).
///
/// # Errors
/// When the system call is forbidden.
pub fn is_synchronised() -> std::io::Result<bool> {
    #[expect(unsafe_code, reason = "no crate that is here wraps this system call")]
    // SAFETY: `timex` is plain data, for which zeros are a request to change nothing; the pointer lives through the call.
    let state = unsafe {
        let mut request: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut request)
    };
    match state {
        -1 => Err(std::io::Error::last_os_error()),
        state => Ok(state != libc::TIME_ERROR),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn asking_changes_nothing_and_works_for_everybody() {
        assert_eq!(super::is_synchronised().unwrap(), super::is_synchronised().unwrap());
    }
}
