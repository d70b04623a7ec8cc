//! What people and machines see of a running node: logs, metrics, health.

pub mod ask;
pub mod http;
pub mod log;
pub mod metrics;
pub mod proxy;

/// `reportingController` of all our Events. The admission policy matches it.
pub const REPORTING_CONTROLLER: &str = "selvedge.dev/agent";
