//! Keys of a Selvedge node: their types, the store on disk, the rotation state machine and the audit log.
//!
//! Private keys never leave the node: they have no `Display`, a redacted `Debug`, no serde form, and are
//! wiped from memory when dropped.

mod access;
pub mod audit;
pub mod durable;
mod file;
mod key;
pub mod rotation;
mod store;

pub use access::AccessError;
pub use audit::{AuditError, AuditLog, AuditReader};
pub use file::{Damage, NodeKeys};
pub use key::{KEY_LEN, KeyError, PresharedKey, PrivateKey, PublicKey};
pub use store::{KeyReader, KeyStore, StoreError};
