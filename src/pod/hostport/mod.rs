//! Host ports: ports of the node that lead to pods (the CNI capability `portMappings`).
//!
//! Who has which is in the leases; [`table`] says what follows from all of them (pure), and [`sync`] makes the kernel's
//! table be that. The destination alone is translated: a pod sees who its client is, and its answers come back by this
//! node, because all that a pod sends does. On the wire they carry the node's address.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

pub use table::TABLE;

use super::lease::{self, Lease, Leases, Locked, Unreadable};
use super::mapping::{self, Key, Protocol};
use super::node::NodeInfo;
use crate::kernel::conntrack::{self, Connection};
use crate::kernel::netlink::{self, Netlink};
use crate::kernel::nft::{self, Changes, Family, Table};

/// Why host ports are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Their nftables table.
    #[error("host ports: {0}")]
    Nft(#[from] nft::Error),
    /// Connections that are older than a host port.
    #[error("older connections to host ports: {0}")]
    Conntrack(#[from] conntrack::Error),
    /// The node's addresses can't be listed.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The leases can't be used.
    #[error(transparent)]
    Lease(#[from] lease::Error),
    /// The work was cut short.
    #[error("host ports: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Where host ports lead.
type Targets = BTreeMap<Key, SocketAddr>;

/// The table of a node without host ports: all but what its maps hold.
#[must_use]
pub fn empty() -> Table {
    table::table(&Targets::new())
}

/// Opens the host ports of `lease`, which is among `leases`.
///
/// # Errors
/// [`Error`]; then they may be open or not.
pub async fn open(netlink: &Netlink, leases: &Leases, lease: &Lease, node: &NodeInfo) -> Result<(), Error> {
    if lease.host_ports.is_empty() {
        return Ok(());
    }
    let own = own_addresses(netlink).await?;
    // The lock is held while the table is written: it is never older than the leases.
    sync(&leases.lock()?, Some(node), &[])?;
    Ok(forget_older(&targets([lease], Some(node)), &own)?)
}

/// Closes the host ports of `leaving`, whose leases go next.
///
/// # Errors
/// [`Error`]; then they may be open or not.
pub fn close(locked: &Locked, node: Option<&NodeInfo>, leaving: &[Lease]) -> Result<(), Error> {
    let targets = targets(leaving, None);
    if targets.is_empty() {
        return Ok(());
    }
    sync(locked, node, leaving)?;
    Ok(forget_leading_to(&targets)?)
}

/// Makes the kernel have the host ports of all leases, and no others; those of `leaving` are left out. With `node`, those that
/// would lead to addresses in none of its pod CIDRs are left out too: such an address is another node's by now.
///
/// # Errors
/// [`Error`]; then the kernel has what it had before.
pub fn sync(locked: &Locked, node: Option<&NodeInfo>, leaving: &[Lease]) -> Result<Changes, Error> {
    let (leases, unreadable) = locked.list()?;
    let leases = leases.iter().filter(|lease| !leaving.contains(lease));
    let found = nft::read(Family::Inet, TABLE)?;
    match wanted(leases, node, &unreadable, found.as_ref().map(|found| &found.table)) {
        Some(table) => Ok(nft::apply(&[table])?),
        None if found.is_some() => {
            nft::delete(Family::Inet, TABLE)?;
            Ok(Changes(vec![format!("delete table {TABLE}")]))
        }
        None => Ok(Changes::default()),
    }
}

/// What is not right of the host ports of `lease`, in words.
///
/// # Errors
/// [`Error`].
pub fn problem(lease: &Lease, node: &NodeInfo) -> Result<Option<String>, Error> {
    let targets = targets([lease], Some(node));
    if targets.is_empty() {
        return Ok(None);
    }
    let found = nft::read(Family::Inet, TABLE)?.filter(|found| !found.dormant);
    let alone = table::table(&targets);
    let right = found.is_some_and(|found| table::covers(&found.table, &alone));
    Ok((!right).then(|| format!("its host ports are missing or changed in the nftables table {TABLE}")))
}

/// Puts back what others took away of the host ports of all leases. Tells what was wrong.
///
/// # Errors
/// [`Error`].
pub async fn repair(netlink: &Netlink, leases: &Leases, node: &NodeInfo) -> Result<Vec<String>, Error> {
    // Without the lock first: nearly always all is well.
    let (all, unreadable) = leases.list()?;
    let found = nft::read(Family::Inet, TABLE)?;
    let asleep = found.as_ref().is_some_and(|found| found.dormant);
    let table = found.as_ref().map(|found| &found.table);
    if !asleep && wanted(&all, Some(node), &unreadable, table).as_ref() == table {
        return Ok(vec![]);
    }
    let own = own_addresses(netlink).await?;
    let (leases, node) = (leases.clone(), node.clone());
    let changes = tokio::task::spawn_blocking(move || {
        let locked = leases.lock()?;
        let changes = sync(&locked, Some(&node), &[])?;
        if !changes.is_empty() {
            let (leases, _) = locked.list()?;
            let open = targets(&leases, Some(&node));
            forget_older(&open, &own)?;
            let closed = |(key, target): &(Key, SocketAddr)| open.get(key) != Some(target);
            forget_leading_to(&targets(&leases, None).into_iter().filter(closed).collect())?;
        }
        Ok::<_, Error>(changes)
    });
    Ok(changes.await??.0)
}

/// The table that the leases ask for; none when none is needed. What `found` has for leases that can't be read stays.
fn wanted<'a>(
    leases: impl IntoIterator<Item = &'a Lease>,
    node: Option<&NodeInfo>,
    unreadable: &[Unreadable],
    found: Option<&Table>,
) -> Option<Table> {
    let mut table = table::table(&targets(leases, node));
    if let Some(found) = found {
        let addresses: Vec<IpAddr> = unreadable.iter().flat_map(|lease| lease.addresses.iter()).collect();
        table::keep(&mut table, found, &addresses);
    }
    (!table::is_empty(&table)).then_some(table)
}

fn targets<'a>(leases: impl IntoIterator<Item = &'a Lease>, node: Option<&NodeInfo>) -> Targets {
    let addresses = |lease: &Lease| match node {
        Some(node) => lease.addresses.within(&node.pod_cidrs),
        None => lease.addresses.clone(),
    };
    let leases = leases.into_iter().filter(|lease| !lease.host_ports.is_empty());
    let pods: Vec<_> = leases.map(|lease| (addresses(lease), lease.host_ports.as_slice())).collect();
    table::targets(&pods.iter().map(|(addresses, ports)| (addresses, *ports)).collect())
}

async fn own_addresses(netlink: &Netlink) -> Result<BTreeSet<IpAddr>, netlink::Error> {
    Ok(netlink.addresses(None).await?.iter().map(|address| address.net.addr()).collect())
}

/// NAT rules are asked about a connection's first packet only, and UDP has no end: a client that was there before the
/// host port would go on speaking to the node, or to a pod that had it before.
fn forget_older(targets: &Targets, own: &BTreeSet<IpAddr>) -> Result<(), conntrack::Error> {
    if targets.keys().any(|key| key.protocol == Protocol::Udp) {
        conntrack::forget(Protocol::Udp, |connection| leads_elsewhere(connection, targets, own))?;
    }
    Ok(())
}

/// The same for a client that would go on speaking to a pod that is gone.
fn forget_leading_to(targets: &Targets) -> Result<(), conntrack::Error> {
    if targets.keys().any(|key| key.protocol == Protocol::Udp) {
        conntrack::forget(Protocol::Udp, |connection| leads_to(connection, targets))?;
    }
    Ok(())
}

fn leads_elsewhere(connection: &Connection, targets: &Targets, own: &BTreeSet<IpAddr>) -> bool {
    let target = connection.target;
    if !own.contains(&target.ip()) && !target.ip().is_loopback() {
        return false;
    }
    let (ip, port) = (nft::Ip::of(target.ip()), target.port());
    let key = |address| Key { ip, address, protocol: Protocol::Udp, port };
    let wanted = targets.get(&key(Some(target.ip()))).or_else(|| targets.get(&key(None)));
    let udp = connection.protocol == Protocol::Udp.number();
    udp && wanted.is_some_and(|wanted| connection.server != *wanted)
}

fn leads_to(connection: &Connection, targets: &Targets) -> bool {
    let same = |(key, target): (&Key, &SocketAddr)| {
        (key.protocol.number(), key.port, *target)
            == (connection.protocol, connection.target.port(), connection.server)
    };
    connection.protocol == Protocol::Udp.number() && targets.iter().any(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::mapping::HostPort;
    use crate::pod::pool::Addresses;

    fn udp(client: &str, target: &str, server: &str) -> Connection {
        let [client, target, server] = [client, target, server].map(|text| text.parse().unwrap());
        Connection { protocol: 17, client, target, server }
    }

    fn targets() -> Targets {
        let port = |host: &str, host_port| HostPort {
            host_ip: (!host.is_empty()).then(|| host.parse().unwrap()),
            host_port,
            protocol: Protocol::Udp,
            container_port: 5353,
        };
        let pod = Addresses::parse("10.1.0.2").unwrap();
        table::targets(&vec![(&pod, &[port("", 53), port("192.0.2.1", 54)])])
    }

    #[test]
    fn older_connections_are_told_from_others() {
        let own = BTreeSet::from(["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()]);
        for (connection, older) in [
            (udp("192.0.2.9:1", "192.0.2.1:53", "192.0.2.1:53"), true),
            (udp("192.0.2.9:1", "192.0.2.1:53", "10.1.0.9:5353"), true),
            (udp("192.0.2.9:1", "192.0.2.1:53", "10.1.0.2:5353"), false),
            (udp("192.0.2.1:1", "127.0.0.1:53", "127.0.0.1:53"), true),
            // Somebody else's port 53.
            (udp("10.1.0.7:1", "198.51.100.1:53", "198.51.100.1:53"), false),
            (udp("192.0.2.9:1", "192.0.2.1:54", "192.0.2.1:54"), true),
            (udp("192.0.2.9:1", "192.0.2.2:54", "192.0.2.2:54"), false),
            (udp("192.0.2.9:1", "192.0.2.1:55", "192.0.2.1:55"), false),
            (Connection { protocol: 6, ..udp("192.0.2.9:1", "192.0.2.1:53", "192.0.2.1:53") }, false),
        ] {
            assert_eq!(leads_elsewhere(&connection, &targets(), &own), older, "{connection:?}");
        }
    }

    #[test]
    fn connections_to_a_pod_that_goes() {
        for (connection, to) in [
            (udp("192.0.2.9:1", "192.0.2.1:53", "10.1.0.2:5353"), true),
            (udp("192.0.2.9:1", "192.0.2.1:53", "10.1.0.3:5353"), false),
            // By a Service, or straight.
            (udp("192.0.2.9:1", "10.96.0.10:5300", "10.1.0.2:5353"), false),
            (udp("192.0.2.9:1", "10.1.0.2:5353", "10.1.0.2:5353"), false),
        ] {
            assert_eq!(leads_to(&connection, &targets()), to, "{connection:?}");
        }
    }
}
