//! tunnel/device
