//! Measurements that need nodes of the lab.

pub mod cni;
mod figures;
pub mod scale;
pub mod services;
mod usage;

pub use figures::Figures;
