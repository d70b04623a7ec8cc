use std::collections::BTreeSet;

use super::folder::TEMPORARY;
use super::*;
use crate::pod::mapping::Protocol;
use crate::pod::pool::Pool;

pub(super) fn pool(net: &str) -> Pool {
    Pool::new(&[net.parse().unwrap(), "fd00::/64".parse().unwrap()])
}

pub(super) fn holder(container: &str) -> Holder {
    Holder {
        network: "pods".to_owned(),
        attachment: Attachment::new(container, "eth0").unwrap(),
        netns: "/run/netns/x".into(),
        netns_id: None,
        pod: PodName::default(),
        mtu: 1420,
        datapath: Datapath::Bridge,
        host_ports: vec![],
    }
}

pub(super) fn leases() -> (tempfile::TempDir, Leases) {
    let folder = tempfile::tempdir().unwrap();
    let leases = Leases::new(folder.path().join("leases"));
    (folder, leases)
}

fn take(leases: &Leases, container: &str) -> Result<String, Error> {
    let lease = leases.lock()?.take(&pool("10.1.0.0/29"), holder(container))?;
    Ok(lease.addresses.to_string())
}

fn give_back(leases: &Leases, container: &str) {
    leases.lock().unwrap().give_back(&holder(container).attachment).unwrap();
}

#[test]
fn taken_found_and_given_back() {
    let (_folder, leases) = leases();
    assert_eq!(leases.find(&holder("a").attachment).unwrap(), None);
    assert_eq!(take(&leases, "a").unwrap(), "10.1.0.2,fd00::2");
    let found = leases.find(&holder("a").attachment).unwrap().unwrap();
    assert_eq!((found.addresses.to_string().as_str(), &*found.network), ("10.1.0.2,fd00::2", "pods"));
    assert!(matches!(take(&leases, "a"), Err(Error::Exists(_))));
    give_back(&leases, "a");
    give_back(&leases, "a");
    assert_eq!(leases.find(&holder("a").attachment).unwrap(), None);
}

#[test]
fn addresses_rest_before_they_come_again() {
    let (_folder, leases) = leases();
    let names = ["a", "b", "c", "d", "e"];
    let given: Vec<String> = names.iter().map(|name| take(&leases, name).unwrap()).collect();
    assert_eq!(given.last().unwrap(), "10.1.0.6,fd00::6");
    assert!(matches!(take(&leases, "f"), Err(Error::NoAddresses { capacity: 5 })));
    for name in ["c", "a", "e"] {
        give_back(&leases, name);
    }
    let again: Vec<String> = ["x", "y", "z"].iter().map(|name| take(&leases, name).unwrap()).collect();
    assert_eq!(again, ["10.1.0.4,fd00::4", "10.1.0.2,fd00::2", "10.1.0.6,fd00::6"]);
}

#[test]
fn an_address_of_an_older_pod_cidr_is_not_given_twice() {
    let (_folder, leases) = leases();
    take(&leases, "a").unwrap();
    let other = leases.lock().unwrap().take(&pool("10.9.0.0/29"), holder("b")).unwrap();
    assert_eq!(other.addresses.to_string(), "10.9.0.3,fd00::3", "fd00::2 is still in use");
}

#[test]
fn what_a_dead_process_left_is_no_harm() {
    let (_folder, leases) = leases();
    take(&leases, "a").unwrap();
    give_back(&leases, "a");
    // Died after writing, before linking; and after linking, before removing the rest.
    std::fs::write(leases.folder.join(TEMPORARY), b"{").unwrap();
    std::fs::write(leases.folder.join("10.1.0.3,fd00::3~00000000000000000009"), b"{").unwrap();
    let given: Vec<String> = ["b", "c", "d", "e"].iter().map(|name| take(&leases, name).unwrap()).collect();
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 4);
    std::fs::write(leases.folder.join("10.1.0.2,fd00::2~00000000000000000010"), b"{").unwrap();
    let fifth = take(&leases, "f").unwrap();
    assert!(!given.contains(&fifth));
    assert!(matches!(take(&leases, "g"), Err(Error::NoAddresses { .. })));
}

#[test]
fn an_unreadable_lease_keeps_its_addresses_and_is_told() {
    let (_folder, leases) = leases();
    take(&leases, "a").unwrap();
    let (name, _) = ("10.1.0.2,fd00::2@".to_owned() + &holder("a").attachment.port().name, ());
    std::fs::write(leases.folder.join(name), b"").unwrap();
    assert_eq!(leases.list().unwrap().1.len(), 1);
    assert_eq!(take(&leases, "b").unwrap(), "10.1.0.3,fd00::3");
    give_back(&leases, "a");
    assert_eq!(leases.list().unwrap().1.len(), 0);
}

#[test]
fn a_host_port_has_one_holder() {
    let (_folder, leases) = leases();
    let take = |container: &str, host: &str| {
        let host_ip = (!host.is_empty()).then(|| host.parse().unwrap());
        let port = HostPort { host_ip, host_port: 80, protocol: Protocol::Tcp, container_port: 8080 };
        let pod = PodName { namespace: "shop".to_owned(), name: container.to_owned(), ..PodName::default() };
        let holder = Holder { host_ports: vec![port], pod, ..holder(container) };
        leases.lock().unwrap().take(&pool("10.1.0.0/24"), holder)
    };
    let lease = take("a", "192.0.2.1").unwrap();
    assert_eq!(leases.find(&lease.attachment).unwrap(), Some(lease));
    take("b", "192.0.2.2").unwrap();
    let error = take("c", "").unwrap_err().to_string();
    assert_eq!(error, "TCP port 80 of the node leads to pod shop/a (eth0 of container a) already");
    assert_eq!(leases.list().unwrap().0.len(), 2, "no lease without its host ports");
    give_back(&leases, "a");
    assert!(take("c", "").unwrap_err().to_string().contains("shop/b"));
    give_back(&leases, "b");
    take("c", "").unwrap();
}

#[test]
fn threads_never_share() {
    let (_folder, leases) = leases();
    let pool = pool("10.1.0.0/24");
    let given: Vec<Addresses> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..40)
            .map(|number| {
                let (leases, pool) = (&leases, &pool);
                scope.spawn(move || {
                    leases.lock().unwrap().take(pool, holder(&format!("c{number}"))).unwrap().addresses
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 40);
}

#[test]
fn a_folder_put_in_its_place_is_noticed() {
    let (_folder, leases) = leases();
    let first = leases.lock().unwrap();
    std::fs::rename(&leases.folder, leases.folder.with_file_name("old")).unwrap();
    let second = leases.lock().unwrap();
    drop((first, second));
    take(&leases, "a").unwrap();
}
