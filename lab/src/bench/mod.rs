//! Measurements that need nodes of the lab.

pub mod cni;
mod figures;

pub use figures::Figures;
