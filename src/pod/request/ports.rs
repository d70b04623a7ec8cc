//! The runtime's `portMappings`, checked.

use std::net::IpAddr;

use super::raw::RawPort;
use crate::pod::error::{Code, Error};
use crate::pod::mapping::{HostPort, Protocol};

/// Sorted, each once. A packet must not be for two of them that lead to different ports.
pub(super) fn host_ports(raw: &[RawPort]) -> Result<Vec<HostPort>, Error> {
    let mut ports = raw.iter().map(host_port).collect::<Result<Vec<_>, _>>()?;
    ports.sort_unstable();
    ports.dedup();
    let same =
        |one: &HostPort, other: &HostPort| one.keys().any(|key| other.keys().any(|other| key == other));
    for (number, port) in ports.iter().enumerate() {
        if let Some(other) = ports[number + 1..].iter().find(|other| same(port, other)) {
            let (one, two) = (port.container_port, other.container_port);
            return Err(bad_port(format!("{port} is to lead to the pod's port {one} and to its port {two}")));
        }
    }
    Ok(ports)
}

fn host_port(raw: &RawPort) -> Result<HostPort, Error> {
    let host_ip = match raw.host_ip.as_str() {
        "" => None,
        text => {
            let wrong = |_| bad_port(format!("hostIP `{}` is no address", shown(text)));
            Some(text.parse::<IpAddr>().map_err(wrong)?.to_canonical())
        }
    };
    let protocol = Protocol::parse(&raw.protocol).ok_or_else(|| {
        bad_port(format!("protocol `{}` is none of tcp, udp and sctp", shown(&raw.protocol)))
    })?;
    if raw.host_port == 0 || raw.container_port == 0 {
        return Err(bad_port("hostPort and containerPort can't be 0".to_owned()));
    }
    Ok(HostPort { host_ip, host_port: raw.host_port, protocol, container_port: raw.container_port })
}

fn bad_port(reason: String) -> Error {
    Error::new(Code::InvalidConfig, "the runtime's portMappings can't be used", reason)
}

fn shown(text: &str) -> String {
    text.escape_debug().take(64).collect()
}
