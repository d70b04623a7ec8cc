//! The kernel itself: its version, what of it was tried, the rights that this process has.

use super::finding::Finding;
use super::host::Host;
use super::probe::{Tried, Tun};

/// The oldest kernel that Selvedge runs on.
const OLDEST: (u32, u32) = (5, 13);
/// The first whose TUN takes UDP super-packets.
const USO: &str = "Linux 6.2";
/// Number of the capability (capability.h).
const NET_ADMIN: u32 = 12;

/// What the files say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// `/proc/sys/kernel/osrelease`.
    release: Option<String>,
    /// Effective capabilities.
    capabilities: Option<u64>,
    /// There is `/dev/net/tun`.
    tun: bool,
    /// Connections tracked, and how many may be.
    conntrack: Option<(u64, u64)>,
    /// The bridge module is loaded or can be.
    bridge: bool,
}

impl Facts {
    pub(super) fn gather(host: &Host) -> Self {
        let number = |key: &str| host.sysctl(&format!("netfilter/{key}")).and_then(|text| text.parse().ok());
        let release = host.read("/proc/sys/kernel/osrelease");
        Self {
            capabilities: host.read("/proc/self/status").and_then(|status| effective(&status)),
            tun: host.exists("/dev/net/tun"),
            conntrack: number("nf_conntrack_count").zip(number("nf_conntrack_max")),
            bridge: release.as_deref().is_some_and(|release| has_bridge(host, release)),
            release,
        }
    }
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn has_bridge(host: &Host, release: &str) -> bool {
    let listed = |file: &str| {
        let text = host.read(format!("/lib/modules/{release}/{file}")).unwrap_or_default();
        text.lines().any(|line| line.split(':').next().is_some_and(|path| path.contains("/bridge.ko")))
    };
    host.exists("/sys/module/bridge") || listed("modules.builtin") || listed("modules.dep")
}

/// `routed`: pods have no bridge. `tunnel`: it answers, so it has its device.
pub(super) fn judge(
    facts: &Facts,
    tried: &Result<Tried, String>,
    routed: bool,
    tunnel: bool,
) -> Vec<Finding> {
    let why = tried.as_ref().err().map(String::as_str);
    let tried = tried.as_ref().ok();
    vec![
        kernel(facts.release.as_deref()),
        rights(facts.capabilities),
        tun(facts.tun, tunnel, tried.map(|tried| &tried.tun), why),
        nftables(tried.map(|tried| &tried.nftables), why),
        conntrack(facts.conntrack, tried.is_some_and(|tried| tried.nftables.is_ok())),
        wiring(facts.bridge, tried, routed),
    ]
}

fn kernel(release: Option<&str>) -> Finding {
    const CHECK: &str = "kernel";
    let Some(release) = release else {
        return Finding::skipped(CHECK, "/proc/sys/kernel/osrelease cannot be read");
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => return Finding::skipped(CHECK, format!("{release:?} does not begin with a version")),
    };
    let (major, minor) = OLDEST;
    if version >= OLDEST {
        return Finding::ok(CHECK, format!("Linux {release}"));
    }
    let remedy = format!("boot Linux {major}.{minor} or newer");
    Finding::problem(CHECK, format!("Linux {release} is too old"), remedy)
}

fn rights(capabilities: Option<u64>) -> Finding {
    const CHECK: &str = "rights";
    match capabilities {
        None => Finding::skipped(CHECK, "/proc/self/status cannot be read"),
        Some(bits) if bits & 1 << NET_ADMIN != 0 => Finding::ok(CHECK, "CAP_NET_ADMIN"),
        Some(_) => Finding::problem(
            CHECK,
            "this process has no CAP_NET_ADMIN, so much cannot be looked at",
            "run the doctor as root; agent and tunnel need CAP_NET_ADMIN too",
        ),
    }
}

fn tun(node: bool, tunnel: bool, tried: Option<&Result<Tun, String>>, why: Option<&str>) -> Finding {
    const CHECK: &str = "tun";
    if !node && tunnel {
        return Finding::ok(CHECK, "the tunnel has its device; /dev/net/tun is not to be seen from here");
    }
    if !node {
        let remedy = "load the module (modprobe tun, and a line `tun` in /etc/modules-load.d/selvedge.conf)";
        return Finding::problem(CHECK, "there is no /dev/net/tun", remedy);
    }
    match tried {
        None => Finding::skipped(CHECK, format!("/dev/net/tun is there; not tried: {}", why.unwrap_or("?"))),
        Some(Err(error)) => {
            Finding::problem(CHECK, format!("no TUN device can be made: {error}"), "see the error")
        }
        Some(Ok(Tun { offload, queues })) if offload.tso && offload.uso && *queues => {
            Finding::ok(CHECK, "vnet_hdr, TSO, USO, several queues")
        }
        Some(Ok(Tun { offload, queues })) => lesser_tun(offload.tso, offload.uso, *queues),
    }
}

fn lesser_tun(tso: bool, uso: bool, queues: bool) -> Finding {
    const CHECK: &str = "tun";
    let missing: Vec<_> = [(tso, "TSO"), (uso, "USO"), (queues, "several queues")]
        .into_iter()
        .filter_map(|(there, name)| (!there).then_some(name))
        .collect();
    let seen = format!("works without {}", missing.join(", "));
    if tso && queues {
        return Finding::ok(CHECK, format!("{seen}: UDP is a little slower ({USO} has it)"));
    }
    Finding::warning(CHECK, format!("{seen}: slower"), "use a kernel whose TUN has it")
}

fn nftables(tried: Option<&Result<(), String>>, why: Option<&str>) -> Finding {
    const CHECK: &str = "nftables";
    match tried {
        Some(Ok(())) => Finding::ok(CHECK, "takes the tables of guard, egress and pod ports"),
        Some(Err(error)) => Finding::problem(
            CHECK,
            format!("refuses Selvedge's tables: {error}"),
            "load or build the modules nf_tables, nft_ct, nft_nat, nft_masq, nft_fib_inet, nft_limit",
        ),
        None => Finding::skipped(CHECK, format!("not tried: {}", why.unwrap_or("?"))),
    }
}

fn conntrack(table: Option<(u64, u64)>, works: bool) -> Finding {
    const CHECK: &str = "conntrack";
    const REMEDY: &str = "raise net.netfilter.nf_conntrack_max: new connections are dropped when it is full";
    match table {
        Some((count, 0)) => Finding::ok(CHECK, format!("{count} connections, without a limit")),
        Some((count, max)) if count >= max => {
            Finding::problem(CHECK, format!("the table is full: {count} of {max}"), REMEDY)
        }
        Some((count, max)) if count > max / 5 * 4 => {
            Finding::warning(CHECK, format!("the table is nearly full: {count} of {max}"), REMEDY)
        }
        Some((count, max)) => Finding::ok(CHECK, format!("{count} of {max} connections")),
        None if works => Finding::ok(CHECK, "works; not in use yet"),
        None => Finding::skipped(CHECK, "not loaded yet, and not tried"),
    }
}

fn wiring(bridge: bool, tried: Option<&Tried>, routed: bool) -> Finding {
    const CHECK: &str = "bridge";
    let failed = |what: &str, error: &String| {
        let remedy = format!("load or build the module {what}");
        Finding::problem(CHECK, format!("no {what} can be made: {error}"), remedy)
    };
    match tried {
        Some(Tried { veth: Err(error), .. }) => failed("veth", error),
        Some(Tried { bridge: Err(error), .. }) if !routed => {
            let finding = failed("bridge", error);
            let remedy = "load or build the module bridge, or set datapath = \"routed\"";
            Finding { remedy: Some(remedy.into()), ..finding }
        }
        Some(_) => Finding::ok(CHECK, if routed { "not needed: pods are routed" } else { "bridge and veth" }),
        None if bridge => Finding::ok(CHECK, "the module is there; not tried"),
        None => Finding::skipped(CHECK, "the module is not loaded, and was not tried"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity::{self, Problem, Skipped, Warning};
    use super::super::host::Fake;
    use super::*;
    use crate::tunnel::io::tun::Offload;

    const ALL: Offload = Offload { checksum: true, tso: true, uso: true };

    fn good() -> Tried {
        Tried { tun: Ok(Tun { offload: ALL, queues: true }), nftables: Ok(()), bridge: Ok(()), veth: Ok(()) }
    }

    fn severities(facts: &Facts, tried: &Result<Tried, String>) -> Vec<(&'static str, Severity)> {
        judge(facts, tried, false, false)
            .into_iter()
            .map(|finding| (finding.check, finding.severity))
            .collect()
    }

    fn severity(facts: &Facts, tried: &Result<Tried, String>, check: &str) -> Severity {
        severities(facts, tried).into_iter().find(|(name, _)| *name == check).unwrap().1
    }

    #[test]
    fn a_node_as_it_should_be_has_only_good_findings() {
        let fake = Fake::with(&[
            ("/proc/sys/kernel/osrelease", "6.8.0-45-generic\n"),
            ("/proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n"),
            ("/dev/net/tun", ""),
            ("/proc/sys/net/netfilter/nf_conntrack_count", "12\n"),
            ("/proc/sys/net/netfilter/nf_conntrack_max", "262144\n"),
            ("/lib/modules/6.8.0-45-generic/modules.dep", "kernel/net/bridge/bridge.ko.zst: a b\n"),
        ]);
        let facts = Facts::gather(&fake.host);
        assert!(facts.bridge);
        assert!(severities(&facts, &Ok(good())).iter().all(|(_, severity)| *severity == Severity::Ok));
    }

    #[test]
    fn kernels_are_compared_by_number() {
        for (release, expected) in [
            ("5.13.0", Severity::Ok),
            ("5.9.16", Problem),
            ("4.19.0-27-amd64", Problem),
            ("6.18.44", Severity::Ok),
            ("10.0.1", Severity::Ok),
            ("strange", Skipped),
        ] {
            assert_eq!(kernel(Some(release)).severity, expected, "{release}");
        }
    }

    #[test]
    fn a_bare_host_says_what_is_missing() {
        let facts = Facts::gather(&Fake::with(&[]).host);
        assert_eq!(severity(&facts, &Ok(good()), "tun"), Problem);
        assert_eq!(tun(false, true, None, None).severity, Severity::Ok, "in the agent's container");
        for check in ["kernel", "rights", "nftables", "conntrack", "bridge"] {
            assert_eq!(severity(&facts, &Err("EPERM".into()), check), Skipped, "{check}");
        }
    }

    #[test]
    fn each_missing_part_is_named() {
        let facts = Facts { tun: true, capabilities: Some(0), ..Facts::default() };
        assert_eq!(severity(&facts, &Ok(good()), "rights"), Problem);
        let without = |change: fn(&mut Tried)| {
            let mut tried = good();
            change(&mut tried);
            Ok(tried)
        };
        assert_eq!(severity(&facts, &without(|t| t.nftables = Err("no".into())), "nftables"), Problem);
        assert_eq!(severity(&facts, &without(|t| t.tun = Err("no".into())), "tun"), Problem);
        assert_eq!(severity(&facts, &without(|t| t.veth = Err("no".into())), "bridge"), Problem);
        let bridgeless = without(|t| t.bridge = Err("no".into()));
        assert_eq!(severity(&facts, &bridgeless, "bridge"), Problem);
        assert!(
            judge(&facts, &bridgeless, true, false).iter().all(|f| f.check != "bridge" || f.remedy.is_none())
        );
        let no_uso = Tun { offload: Offload { uso: false, ..ALL }, queues: true };
        assert_eq!(tun(true, false, Some(&Ok(no_uso)), None).severity, Severity::Ok);
        let no_queues = Tun { offload: ALL, queues: false };
        assert_eq!(tun(true, false, Some(&Ok(no_queues)), None).severity, Warning);
    }

    #[test]
    fn a_full_table_of_connections_is_a_problem() {
        assert_eq!(conntrack(Some((100, 100)), true).severity, Problem);
        assert_eq!(conntrack(Some((90, 100)), true).severity, Warning);
        assert_eq!(conntrack(Some((9, 100)), true).severity, Severity::Ok);
        assert_eq!(conntrack(Some((9, 0)), true).severity, Severity::Ok);
    }
}
