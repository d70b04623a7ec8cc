//! kube-proxy's rules in the kernel, which stay there when it stops.

use std::io;

use super::iptables::FAMILIES;
use super::nft::{self, Changes, Error};

/// Its nftables table, of both families, in mode `nftables`.
pub const TABLE: &str = "kube-proxy";
/// The device that it gives the Services' addresses to in mode `ipvs`.
pub const IPVS_DEVICE: &str = "kube-ipvs0";
/// The tables of iptables that it has chains in, in mode `iptables`.
const IPTABLES: [&str; 3] = ["nat", "filter", "mangle"];
/// Its chains there. Other `KUBE-` chains are kubelet's, or those of network policies.
const CHAINS: [&str; 8] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-PROXY-FIREWALL",
    "KUBE-FORWARD",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-PROXY-CANARY",
];
/// Starts of the names of those that it has for each Service and endpoint.
const STARTS: [&str; 6] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-"];

/// Which of its modes has rules in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// nftables.
    pub nftables: bool,
    /// iptables, in nftables (iptables-nft).
    pub iptables: bool,
    /// IPVS.
    pub ipvs: bool,
    /// iptables-legacy has a `nat` table, which nftables does not show. Its owner is unknown.
    pub legacy: bool,
}

impl Rules {
    /// Reads them. `ipvs`: there is an [`IPVS_DEVICE`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn read(ipvs: bool) -> Result<Self, Error> {
        let mut rules = Self { ipvs, legacy: has_legacy_nat(), ..Self::default() };
        for family in FAMILIES {
            let tables = nft::tables(family)?;
            rules.nftables |= tables.contains(TABLE);
            for table in IPTABLES.into_iter().filter(|table| tables.contains(*table)) {
                rules.iptables |= nft::chain_names(family, table)?.iter().any(|chain| is_chain(chain));
            }
        }
        Ok(rules)
    }

    /// Whether there may be any.
    #[must_use]
    pub const fn may_be(self) -> bool {
        self.nftables || self.iptables || self.ipvs || self.legacy
    }
}

/// Whether kube-proxy has a chain of that name in iptables' tables.
#[must_use]
pub fn is_chain(name: &str) -> bool {
    CHAINS.contains(&name) || STARTS.iter().any(|start| name.starts_with(start))
}

/// Removes its rules from nftables and iptables-nft.
///
/// # Errors
/// [`Error`]; then some tables may be done already.
pub fn remove() -> Result<Changes, Error> {
    let mut done = Vec::new();
    for family in FAMILIES {
        if nft::delete(family, TABLE)? {
            done.push(format!("delete table {family} {TABLE}"));
        }
        for table in IPTABLES {
            done.extend(nft::evict_chains(family, table, is_chain)?.0);
        }
    }
    Ok(Changes(done))
}

/// Asking iptables itself would make the table.
fn has_legacy_nat() -> bool {
    let has =
        |file| -> io::Result<bool> { Ok(std::fs::read_to_string(file)?.lines().any(|table| table == "nat")) };
    ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]
        .into_iter()
        .any(|file| has(file).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::kernel::nft::Family;

    fn run(script: &str) {
        let status = Command::new("sh").args(["-ec", script]).status().unwrap();
        assert!(status.success(), "{script}");
    }

    #[test]
    fn its_rules_go_and_others_stay() {
        selvedge_lab::isolated!(|| {
            assert_eq!(Rules::read(false).unwrap(), Rules::default());
            run("nft 'table ip kube-proxy { map m { type ipv4_addr : verdict; }; chain c { ip daddr vmap @m; }; }
                      table ip6 kube-proxy { chain c { }; }
                      table inet kube-proxy { }'");
            assert!(Rules::read(false).unwrap().nftables);
            if Command::new("iptables-nft").arg("--version").output().is_ok() {
                for iptables in ["iptables-nft", "ip6tables-nft"] {
                    let nat = format!("{iptables} -t nat");
                    run(&format!(
                        "{nat} -N KUBE-SERVICES; {nat} -N KUBE-SVC-A; {nat} -N KUBE-MARK-MASQ
                         {nat} -N KUBE-ROUTER-INPUT; {nat} -N KUBE-KUBELET-CANARY
                         {nat} -A OUTPUT -p tcp -m comment --comment 'kubernetes service portals' -j KUBE-SERVICES
                         {nat} -A OUTPUT -p udp -j KUBE-ROUTER-INPUT
                         {nat} -A KUBE-SERVICES -p tcp -m tcp --dport 80 -j KUBE-SVC-A
                         {nat} -A KUBE-SVC-A -m statistic --mode random --probability 0.5 -j KUBE-MARK-MASQ
                         {nat} -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
                         {iptables} -N KUBE-FORWARD; {iptables} -A FORWARD -j KUBE-FORWARD
                         {iptables} -N KUBE-FIREWALL; {iptables} -A OUTPUT -j KUBE-FIREWALL"
                    ));
                }
                assert!(Rules::read(false).unwrap().iptables);
                assert!(!remove().unwrap().is_empty());
                for family in FAMILIES {
                    let names = |table| nft::chain_names(family, table).unwrap();
                    assert_eq!(names("nat"), ["KUBE-KUBELET-CANARY", "KUBE-ROUTER-INPUT", "OUTPUT"]);
                    assert_eq!(names("filter"), ["FORWARD", "KUBE-FIREWALL", "OUTPUT"]);
                    let output = nft::read_chain(family, "nat", "OUTPUT").unwrap().unwrap();
                    assert!(output.rules.len() == 1 && output.rules[0].leads_to("KUBE-ROUTER-INPUT"));
                }
            } else {
                assert!(!remove().unwrap().is_empty());
            }
            assert_eq!(Rules::read(false).unwrap(), Rules::default());
            assert!(nft::tables(Family::Inet).unwrap().contains(TABLE), "that one is somebody else's");
            assert!(remove().unwrap().is_empty());
        });
    }
}
