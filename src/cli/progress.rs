//! How far a long command is, on standard error: a line that changes on a terminal, else a line for each change.

use std::io::{IsTerminal as _, Write as _};

/// Width that a terminal has at least, less one, so that the cursor stays on the line.
const WIDTH: usize = 79;
const CLEAR: &str = "\r\x1b[2K";

/// The line.
pub(super) struct Progress {
    terminal: bool,
    last: String,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), last: String::new() }
    }

    /// Something that stays to be read.
    pub(super) fn say(&mut self, text: &str) {
        self.clear();
        write(&format!("{text}\n"));
    }

    /// What is so at this moment.
    pub(super) fn now(&mut self, text: &str) {
        if self.last == text {
            return;
        }
        self.last = text.to_owned();
        if self.terminal {
            let line: String = text.chars().filter(|letter| !letter.is_control()).take(WIDTH).collect();
            write(&format!("{CLEAR}{line}"));
        } else {
            write(&format!("{text}\n"));
        }
    }

    fn clear(&mut self) {
        if self.terminal && !self.last.is_empty() {
            write(CLEAR);
        }
        self.last.clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A closed standard error is no reason to break off.
fn write(text: &str) {
    let mut out = std::io::stderr();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
