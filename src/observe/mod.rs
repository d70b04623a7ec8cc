//! What people and machines see of a running node: logs, metrics, health.

pub mod log;
