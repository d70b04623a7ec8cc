//! Selvedge's own resources in the Kubernetes API. `deploy/base/resources.yaml` defines them.

pub mod key_revocation;
pub mod key_rotation;

pub use key_revocation::KeyRevocation;
pub use key_rotation::KeyRotation;

/// Their API group.
pub const GROUP: &str = "selvedge.dev";
/// Their version.
pub const VERSION: &str = "v1alpha1";
