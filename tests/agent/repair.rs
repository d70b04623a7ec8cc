//! What others remove of Selvedge's kernel state comes back.

use selvedge::kernel::nft::{self, Family};
use selvedge_lab::isolated;

use crate::cluster::Cluster;

/// Every nftables table of a node with a pod, by family.
const TABLES: [(Family, &str); 6] = [
    (Family::Inet, selvedge::guard::TABLE),
    (Family::Inet, selvedge::egress::TABLE),
    (Family::Netdev, "selvedge-ports"),
    (Family::Bridge, "selvedge-ports"),
    (Family::Inet, "selvedge-ports"),
    (Family::Arp, "selvedge-ports"),
];

#[test]
fn what_others_remove_is_put_back_also_while_the_api_server_is_away() {
    isolated!(|| {
        let cluster = Cluster::start();
        cluster.lab.create_pod("one", "node1", &[]).unwrap();
        let space = cluster.lab.nodes()[0].space();
        let whole = || space.run(|| TABLES.map(|(family, name)| nft::read(family, name).unwrap())).unwrap();
        let contents = || whole().map(|state| state.map(|state| state.table));
        let before = contents();
        assert!(before.iter().all(Option::is_some), "{before:?}");
        for mode in [selvedge_lab::api::Mode::Serving, selvedge_lab::api::Mode::Hanging] {
            cluster.lab.api().set_mode(mode);
            let removed = space.run(|| TABLES.map(|(family, name)| nft::delete(family, name).unwrap()));
            assert_eq!(removed.unwrap(), [true; 6]);
            let back = cluster.wait_for("all tables to be as before", |_| contents() == before);
            println!("six tables back after {back:?} with the API server {mode:?}");
        }
    });
}
