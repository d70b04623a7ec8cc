//! Endpoints on a link, which name the device that leads there.

use nix::sys::signal::{Signal, kill};
use selvedge_lab::isolated;
use selvedge_lab::traffic::{Canary, Ping};

use crate::MS;
use crate::peer::wg;
use crate::support::tunnel::{Pair, Tunnel};
use crate::support::{SOON, until, wire};

#[test]
fn an_endpoint_names_the_device_that_leads_to_it() {
    isolated!(|| {
        let (a, b) = wire();
        a.address("wire", "fe80::1/64");
        b.address("wire", "fe80::2/64");
        let pair = Pair::new("wga", "wgb");
        let ours = Tunnel::start(&a, "wga", &[]);
        let theirs = Tunnel::start(&b, "wgb", &[]);
        ours.uapi().set(&format!("{}\n{}", pair.a.as_self(), pair.b.as_peer(None)));
        theirs.uapi().set(&format!("{}\n{}", pair.b.as_self(), pair.a.as_peer(None)));
        pair.a.bring_up(&a);
        pair.b.bring_up(&b);

        let (key, place) = (pair.b.keys.public.to_string(), "[fe80::2%wire]:51802");
        wg(&a, &["set", "wga", "peer", &key, "endpoint", place]).unwrap();
        let endpoint = || wg(&a, &["show", "wga", "endpoints"]).unwrap();
        assert_eq!(endpoint().trim(), format!("{key}\t{place}"));
        assert_eq!(ours.uapi().get("endpoint").unwrap(), place);
        let canary = Canary::random().unwrap();
        let reaches = || {
            let ping = Ping::start(&a.ns, pair.b.inside(false), 20 * MS, &canary).unwrap();
            until("a ping gets through", SOON, || (ping.received() > 2).then_some(()));
        };
        reaches();
        let learnt = wg(&b, &["show", "wgb", "endpoints"]).unwrap();
        assert!(learnt.contains("%wire]:51801"), "{learnt}");

        let worker = ours.worker();
        kill(worker, Signal::SIGKILL).unwrap();
        until("another worker", SOON, || (ours.worker() != worker).then_some(()));
        ours.wait_ready();
        assert_eq!(endpoint().trim(), format!("{key}\t{place}"), "it outlives a worker");
        reaches();

        let unknown =
            format!("set=1\npublic_key={}\nendpoint=[fe80::2%nowhere]:1\n\n", pair.b.keys.public_hex());
        assert_eq!(ours.uapi().ask(&unknown), format!("errno={}\n", -libc::EINVAL));
        assert_eq!(endpoint().trim(), format!("{key}\t{place}"), "nothing changed");
    });
}
