//! What the MTU between the nodes leaves for tunnel and pods, and whether that is enough: one judgement for the bounds of the
//! configuration, the agent, the plugin and the doctor. Pure.

/// Bytes that WireGuard adds to a packet on IPv6: 40 (IPv6) + 8 (UDP) + 32 (header and tag), WireGuard paper 5.4.6.
pub const OVERHEAD: u32 = 80;

/// The least MTU of a device that carries IPv6 (RFC 8200, section 5), or IPv4 alone (RFC 791, section 3.1). Below the
/// former Linux takes IPv6 off a device, with its sysctls.
#[must_use]
pub const fn least(ipv6: bool) -> u32 {
    if ipv6 { 1280 } else { 576 }
}

/// The least MTU between the nodes.
#[must_use]
pub const fn least_underlay(ipv6: bool) -> u32 {
    least(ipv6) + OVERHEAD
}

/// The MTU between the nodes is too small for pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("pods get {}, and {} needs {}", .underlay.saturating_sub(OVERHEAD), family(*.ipv6), least(*.ipv6))]
pub struct TooSmall {
    /// The MTU between the nodes, in bytes.
    pub underlay: u32,
    /// Whether the cluster has IPv6 pods.
    pub ipv6: bool,
}

impl TooSmall {
    /// What the device of the tunnel gets all the same, in bytes: less would take a family off it.
    #[must_use]
    pub fn least(&self) -> u32 {
        least(self.ipv6)
    }

    /// What to do.
    #[must_use]
    pub fn remedy(&self) -> String {
        let needed = least_underlay(self.ipv6);
        match self.ipv6 {
            true => format!(
                "raise the MTU between the nodes to {needed}, or take the IPv6 ranges out of the configuration"
            ),
            false => format!("raise the MTU between the nodes to {needed}"),
        }
    }
}

/// MTU of tunnel and pods, in bytes, where that between the nodes is `underlay`. [`OVERHEAD`] is that of an IPv6 underlay,
/// since any peer may be reached over one.
///
/// # Errors
/// When that is not enough for a cluster with IPv6 pods, or without.
pub fn of_pods(underlay: u32, ipv6: bool) -> Result<u32, TooSmall> {
    match underlay.checked_sub(OVERHEAD) {
        Some(pods) if pods >= least(ipv6) => Ok(pods),
        _ => Err(TooSmall { underlay, ipv6 }),
    }
}

fn family(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_enough_down_to_the_least_of_the_families() {
        for (underlay, ipv6, pods) in [
            (1500, true, Some(1420)),
            (1360, true, Some(1280)),
            (1359, true, None),
            (1359, false, Some(1279)),
            (656, false, Some(576)),
            (655, false, None),
            (10, false, None),
        ] {
            assert_eq!(of_pods(underlay, ipv6).ok(), pods, "{underlay} {ipv6}");
        }
        let error = of_pods(1300, true).unwrap_err();
        assert_eq!(error.to_string(), "pods get 1220, and IPv6 needs 1280");
        assert!(error.remedy().contains("1360"), "{}", error.remedy());
    }
}
