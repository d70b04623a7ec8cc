//! The standard WireGuard configuration protocol (<https://www.wireguard.com/xplatform/>), so that `wg` works.
//!
//! [`parse`] reads a request, [`Settings`] is what requests change and [`render`] writes the answer to `get`; all
//! of them are pure ([`Zones`] has the devices that endpoints name). [`serve`] does the talking. Two differences from other implementations: `get` shows no
//! private and no preshared key of a managed device, and a `set` changes all that it says or nothing.

mod decimal;
mod parse;
mod render;
mod server;
mod settings;
mod zone;

pub use parse::{AllowedIpChange, ParseError, PeerChange, Request, Set, parse};
pub use render::{Shown, ShownPeer, render};
pub use server::{Handler, serve};
pub use settings::{PeerSettings, Settings};
pub use zone::{Devices, Numbers, Zones};

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What fuzzing looks at, on the inputs it has kept: `fuzz/fuzz_targets/uapi.rs`.
    #[test]
    fn the_corpus_holds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/uapi");
        let (mut seen, mut sets) = (0, 0);
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            seen += 1;
            let Ok(Request::Set(set)) = parse(&std::fs::read(&path).unwrap(), &Numbers) else { continue };
            sets += 1;
            let settings = Settings::default().with(&set);
            match parse(settings.to_request().as_bytes(), &Numbers) {
                Ok(Request::Set(kept)) => assert_eq!(Settings::default().with(&kept), settings),
                other => panic!("{}: {other:?}", path.display()),
            }
        }
        assert!(seen > 8 && sets > 5, "{seen} inputs, {sets} of them understood");
    }
}
