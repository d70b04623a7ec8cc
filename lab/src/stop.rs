//! Ends the threads of a scope also when the code beside them panics.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets the flag when dropped.
///
/// [`std::thread::scope`] waits for its threads even while a panic unwinds. A thread that runs until a flag is set would
/// turn each failed assertion beside it into a test that never ends.
#[derive(Debug)]
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_ends_although_the_code_beside_its_thread_panics() {
        let stop = AtomicBool::new(false);
        let panicked = std::panic::catch_unwind(|| {
            std::thread::scope(|scope| {
                let _stop = StopOnDrop(&stop);
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        std::thread::yield_now();
                    }
                });
                panic!("as a failed assertion");
            });
        });
        assert!(panicked.is_err() && stop.into_inner());
    }
}
