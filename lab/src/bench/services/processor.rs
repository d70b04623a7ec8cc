//! Which processor a thread runs on. The scheduler moves the two ends of a stream around, and their rate then says more about
//! its choice than about what a packet costs.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::error::{Doing as _, Error};

/// This thread.
const SELF: Pid = Pid::from_raw(0);

/// Keeps this thread on one of the processors that it may use: the `place`th, counted round and round.
pub(super) fn stay_on(place: usize) -> Result<(), Error> {
    let what = "choose a processor";
    let allowed = sched_getaffinity(SELF).doing(what)?;
    let allowed: Vec<usize> =
        (0..CpuSet::count()).filter(|&processor| allowed.is_set(processor) == Ok(true)).collect();
    let Some(&chosen) = allowed.iter().cycle().nth(place) else { return Ok(()) };
    let mut only = CpuSet::new();
    only.set(chosen).doing(what)?;
    sched_setaffinity(SELF, &only).doing(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_where_it_is_put() {
        let before = sched_getaffinity(SELF).expect("readable");
        let there = std::thread::spawn(|| {
            stay_on(1_000).expect("allowed");
            sched_getaffinity(SELF).expect("readable")
        });
        let there = there.join().expect("ends");
        let set = |cpus: &CpuSet| (0..CpuSet::count()).filter(|&cpu| cpus.is_set(cpu) == Ok(true)).count();
        assert_eq!(set(&there), 1);
        assert_eq!(sched_getaffinity(SELF).expect("readable"), before);
    }
}
