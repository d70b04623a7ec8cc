//! The standard WireGuard configuration protocol (<https://www.wireguard.com/xplatform/>), so that `wg` works.
//!
//! [`parse`] reads a request, [`Settings`] is what requests change and [`render`] writes the answer to `get`; all
//! of them are pure. [`serve`] does the talking. Two differences from other implementations: `get` shows no
//! private and no preshared key (so `wg show` works and `wg showconf` lacks them), and a `set` changes all that
//! it says or nothing.

mod parse;
mod render;
mod server;
mod settings;

pub use parse::{AllowedIpChange, ParseError, PeerChange, Request, Set, parse};
pub use render::{Shown, ShownPeer, render};
pub use server::{Handler, serve};
pub use settings::{PeerSettings, Settings};
