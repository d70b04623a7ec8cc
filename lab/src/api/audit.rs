//! The log of requests, for tests to look at.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use super::call::Request;

const KEEP: usize = 10_000;

/// One request that was answered. A watch is noted when it begins.
#[derive(Clone, Debug)]
pub struct Record {
    /// When the answer began.
    pub at: Timestamp,
    /// HTTP status code of the answer.
    pub code: u16,
    /// What was asked.
    pub request: Request,
}

#[derive(Debug, Default)]
pub(super) struct Log(Mutex<VecDeque<Record>>);

impl Log {
    pub(super) fn add(&self, code: u16, request: Request) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() == KEEP {
            records.pop_front();
        }
        records.push_back(Record { at: Timestamp::now(), code, request });
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
