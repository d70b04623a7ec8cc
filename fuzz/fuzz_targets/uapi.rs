//! A request of the WireGuard configuration protocol, and what it makes of a device.
#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge::tunnel::uapi::{Numbers, Request, Settings, parse};

fuzz_target!(|request: &[u8]| {
    let Ok(Request::Set(set)) = parse(request, &Numbers) else { return };
    let settings = Settings::default().with(&set);
    // What is kept of it is a request that makes the same out of nothing.
    match parse(settings.to_request().as_bytes(), &Numbers) {
        Ok(Request::Set(kept)) => assert_eq!(Settings::default().with(&kept), settings),
        other => panic!("{other:?}"),
    }
});
