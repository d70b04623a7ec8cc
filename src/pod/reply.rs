//! What goes to standard output, in the shape of the version asked for.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;

use super::error::Error;
use super::gateway::everything;
use super::request::{VERSIONS, Version};
use crate::kernel::mac::Mac;

/// The result of ADD (CNI specification 1.1.0, "ADD Success").
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Added {
    cni_version: Version,
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    routes: Vec<Route>,
    dns: Value,
}

#[derive(Debug, Serialize)]
struct Interface {
    name: String,
    mac: Mac,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<String>,
}

#[derive(Debug, Serialize)]
struct Ip {
    /// Only 0.4.0 has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    address: IpNet,
    gateway: IpAddr,
    /// Index in `interfaces`.
    interface: usize,
}

#[derive(Debug, Serialize)]
struct Route {
    dst: IpNet,
    gw: IpAddr,
}

/// What ADD has made.
#[derive(Debug)]
pub struct Wired<'a> {
    /// Bridge and its address, if there is one.
    pub bridge: Option<(&'a str, Mac)>,
    /// The node's end.
    pub port: (&'a str, Mac),
    /// The pod's end.
    pub pod: (&'a str, Mac),
    /// The pod's namespace.
    pub netns: &'a Path,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// The pod's addresses, each with its gateway.
    pub addresses: Vec<(IpAddr, IpAddr)>,
    /// `dns` of the network configuration.
    pub dns: Option<Value>,
}

impl Added {
    /// In the shape of `version`.
    #[must_use]
    pub fn new(version: Version, wired: Wired<'_>) -> Self {
        let mtu = (version >= Version::V1_1_0).then_some(wired.mtu);
        let interface =
            |(name, mac): (&str, Mac), sandbox| Interface { name: name.to_owned(), mac, mtu, sandbox };
        let mut interfaces: Vec<Interface> =
            wired.bridge.into_iter().chain([wired.port]).map(|link| interface(link, None)).collect();
        let inside = interfaces.len();
        interfaces.push(interface(wired.pod, Some(wired.netns.display().to_string())));
        let ip = |(address, gateway): &(IpAddr, IpAddr)| Ip {
            version: (version == Version::V0_4_0).then_some(if address.is_ipv6() { "6" } else { "4" }),
            address: IpNet::from(*address),
            gateway: *gateway,
            interface: inside,
        };
        let route =
            |(_, gateway): &(IpAddr, IpAddr)| Route { dst: everything(gateway.is_ipv6()), gw: *gateway };
        Self {
            cni_version: version,
            interfaces,
            ips: wired.addresses.iter().map(ip).collect(),
            routes: wired.addresses.iter().map(route).collect(),
            dns: wired.dns.unwrap_or_else(|| Value::Object(serde_json::Map::new())),
        }
    }
}

/// The answer to VERSION.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    cni_version: Version,
    supported_versions: [Version; 3],
}

impl Versions {
    /// In the shape of `version`.
    #[must_use]
    pub fn new(version: Version) -> Self {
        Self { cni_version: version, supported_versions: VERSIONS }
    }
}

/// The answer when a verb failed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed<'a> {
    /// The version asked for, or ours.
    pub cni_version: Version,
    /// What failed.
    #[serde(flatten)]
    pub error: &'a Error,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::error::Code;
    use super::*;

    fn added(version: Version) -> Value {
        let wired = Wired {
            bridge: Some(("selvedge-br", Mac([2, 0, 0, 0, 0, 1]))),
            port: ("slv1", Mac([2, 0, 0, 0, 0, 2])),
            pod: ("eth0", Mac([2, 0, 0, 0, 0, 3])),
            netns: Path::new("/run/netns/a"),
            mtu: 1420,
            addresses: vec![
                ("10.1.0.2".parse().unwrap(), "10.1.0.1".parse().unwrap()),
                ("fd00::2".parse().unwrap(), "fd00::1".parse().unwrap()),
            ],
            dns: None,
        };
        serde_json::to_value(Added::new(version, wired)).unwrap()
    }

    #[test]
    fn newest_shape() {
        let expected = json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "selvedge-br", "mac": "02:00:00:00:00:01", "mtu": 1420},
                {"name": "slv1", "mac": "02:00:00:00:00:02", "mtu": 1420},
                {"name": "eth0", "mac": "02:00:00:00:00:03", "mtu": 1420, "sandbox": "/run/netns/a"},
            ],
            "ips": [
                {"address": "10.1.0.2/32", "gateway": "10.1.0.1", "interface": 2},
                {"address": "fd00::2/128", "gateway": "fd00::1", "interface": 2},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "::/0", "gw": "fd00::1"}],
            "dns": {},
        });
        assert_eq!(added(Version::V1_1_0), expected);
    }

    #[test]
    fn older_shapes() {
        let oldest = added(Version::V0_4_0);
        assert_eq!(oldest["ips"][0]["version"], "4");
        assert_eq!(oldest["ips"][1]["version"], "6");
        let middle = added(Version::V1_0_0);
        assert_eq!(middle["cniVersion"], "1.0.0");
        assert!(middle["ips"][0].get("version").is_none() && middle["interfaces"][0].get("mtu").is_none());
    }

    #[test]
    fn failure_shape() {
        let error = Error::new(Code::TryAgain, "not now", "");
        let failed = Failed { cni_version: Version::V1_0_0, error: &error };
        assert_eq!(
            serde_json::to_value(failed).unwrap(),
            json!({"cniVersion": "1.0.0", "code": 11, "msg": "not now"})
        );
    }
}
