//! Measurements that need nodes of the lab.

pub mod cni;
mod figures;
pub mod scale;

pub use figures::Figures;
