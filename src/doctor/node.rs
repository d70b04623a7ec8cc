//! Selvedge's own parts on this node, once it has been installed.

use std::io;
use std::net::IpAddr;

use super::finding::{Finding, some};
use super::host::{Host, is_there};
use crate::agent::status::AgentStatus;
use crate::config::Config;
use crate::guard::{self, GuardConfig};
use crate::local::{Client, ClientError};
use crate::paths::Paths;
use crate::pod::install::CONFLIST;
use crate::pod::node::NodeInfo;
use crate::tunnel::api::{DeviceStatus, PeerState};

const AGENT: &str = "agent";
const TUNNEL: &str = "tunnel";
const GUARD: &str = "guard";
/// Most refused nodes that are listed.
const REFUSED: usize = 10;

/// What they say of themselves.
#[derive(Debug)]
pub(super) struct Facts {
    /// Selvedge has been here: `node.json`, or the CNI configuration.
    pub(super) installed: bool,
    /// Why that cannot be told.
    unsure: Option<io::Error>,
    agent: Result<AgentStatus, ClientError>,
    pub(super) tunnel: Result<DeviceStatus, ClientError>,
    /// The guard is as it should be; an error is for people. None without a configuration.
    guard: Option<Result<bool, String>>,
}

impl Facts {
    pub(super) async fn gather(host: &Host, paths: &Paths, config: Option<&Config>) -> Self {
        let conf_dir = config.map_or("/etc/cni/net.d".into(), |config| config.cni.conf_dir.clone());
        let traces = [is_there(&paths.node()), host.try_exists(conf_dir.join(CONFLIST))];
        let ask = |socket: std::path::PathBuf| Client::new(&socket);
        let agent: Result<AgentStatus, _> = ask(paths.agent_socket()).get("/v1/status").await;
        let installed = agent.is_ok() || traces.iter().any(|trace| matches!(trace, Ok(true)));
        let unsure = traces.into_iter().find_map(Result::err);
        let interface = config.map_or("selvedge0", |config| &config.interface);
        let guard = config
            .filter(|_| installed)
            .map(|config| guard::is_right(&guard_config(config, paths)).map_err(|error| error.to_string()));
        Self {
            installed,
            unsure,
            agent,
            tunnel: ask(paths.tunnel_socket(interface)).get("/v1/status").await,
            guard,
        }
    }
}

impl Facts {
    /// Where the tunnel reaches its peers.
    pub(super) fn peers(&self) -> Vec<IpAddr> {
        let peers = self.tunnel.iter().flat_map(|status| &status.peers);
        peers.filter_map(|peer| Some(peer.endpoint?.ip())).collect()
    }
}

/// With the ranges of Services that the agent has found.
fn guard_config(config: &Config, paths: &Paths) -> GuardConfig {
    let mut guard = GuardConfig::from(config);
    guard.service_cidrs.extend(NodeInfo::load(paths).into_iter().flat_map(|node| node.service_cidrs));
    guard
}

/// Nothing before Selvedge is installed.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    if !facts.installed {
        let seen = match &facts.unsure {
            None => "Selvedge is not installed on this node yet".to_owned(),
            Some(error) => format!("it cannot be told whether Selvedge is installed: {error}"),
        };
        return vec![Finding::skipped(AGENT, seen)];
    }
    let mut findings = agent(&facts.agent);
    findings.push(tunnel(&facts.tunnel));
    findings.extend(facts.guard.as_ref().map(judge_guard));
    findings
}

fn agent(status: &Result<AgentStatus, ClientError>) -> Vec<Finding> {
    let remedy =
        "see its log: kubectl -n selvedge-system logs daemonset/selvedge-agent, or that of its service";
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            return vec![Finding::problem(AGENT, format!("the agent does not answer: {error}"), remedy)];
        }
    };
    let mut findings: Vec<_> =
        status.problems.iter().map(|problem| Finding::problem(AGENT, problem.clone(), remedy)).collect();
    findings.extend(status.refused.iter().take(REFUSED).map(|refused| {
        let seen = format!("refuses node {}: {}", refused.node, refused.message);
        Finding::warning(AGENT, seen, "see the Events of that Node, and whether it is what it claims to be")
    }));
    if let Some(more) = status.refused.len().checked_sub(REFUSED).filter(|more| *more > 0) {
        let seen = format!("refuses {more} more nodes");
        findings.push(Finding::warning(AGENT, seen, "see `selvedge status --all` for all of them"));
    }
    if findings.is_empty() {
        findings.push(match status.ready {
            true => Finding::ok(AGENT, format!("node {} is ready", status.node)),
            false => Finding::problem(AGENT, format!("node {} is not ready", status.node), remedy),
        });
    }
    findings
}

fn tunnel(status: &Result<DeviceStatus, ClientError>) -> Finding {
    match status {
        Err(error) => Finding::problem(
            TUNNEL,
            format!("the tunnel does not answer: {error}"),
            "see its log: kubectl -n selvedge-system logs daemonset/selvedge-tunnel, or that of its service",
        ),
        Ok(status) => peers(status),
    }
}

fn peers(status: &DeviceStatus) -> Finding {
    let in_state = |state| -> Vec<&str> {
        let peers = status.peers.iter().filter(|peer| peer.state == state);
        peers.map(|peer| peer.name.as_str()).collect()
    };
    let (handshaking, unreachable) = (in_state(PeerState::Handshaking), in_state(PeerState::NoEndpoint));
    let port = status.listen_port;
    if !handshaking.is_empty() {
        return Finding::warning(
            TUNNEL,
            format!("no answer to handshakes from {}", some(handshaking)),
            format!(
                "let UDP port {port} pass between the nodes, both ways; see their endpoints in `selvedge status`"
            ),
        );
    }
    if !unreachable.is_empty() {
        let remedy = "set `endpoints` on those nodes, or let them call: `persistentKeepalive = 25`";
        return Finding::warning(TUNNEL, format!("no endpoint known of {}", some(unreachable)), remedy);
    }
    Finding::ok(TUNNEL, format!("{} on UDP {port}, {} peers", status.device, status.peers.len()))
}

fn judge_guard(guard: &Result<bool, String>) -> Finding {
    match guard {
        Ok(true) => Finding::ok(GUARD, "table inet selvedge-guard is as it should be"),
        Ok(false) => Finding::problem(
            GUARD,
            "table inet selvedge-guard is missing or was changed",
            "start the agent, which puts it back; find who flushes nftables (firewall scripts, `nft flush ruleset`)",
        ),
        Err(error) => Finding::skipped(GUARD, error.clone()),
    }
}

#[cfg(test)]
mod tests {
    use selvedge_keys::PublicKey;

    use super::super::finding::Severity;
    use super::*;
    use crate::agent::status::Refused;
    use crate::tunnel::api::{Counters, Features, PeerStatus};

    fn silent<T>() -> Result<T, ClientError> {
        Err(ClientError::Timeout { socket: "/run/x".into(), after: std::time::Duration::from_secs(1) })
    }

    fn device(states: &[(&str, PeerState)]) -> DeviceStatus {
        let peer = |(name, state): &(&str, PeerState)| PeerStatus {
            name: (*name).into(),
            state: *state,
            endpoint: None,
            source: None,
            allowed_ips: Vec::new(),
            persistent_keepalive: None,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
            preshared_key: false,
            sessions: Vec::new(),
        };
        DeviceStatus {
            device: "selvedge0".into(),
            managed: true,
            listen_port: 51830,
            identities: Vec::new(),
            features: Features::default(),
            peers: states.iter().map(peer).collect(),
            counters: Counters::default(),
            capabilities: Vec::new(),
        }
    }

    fn status() -> AgentStatus {
        AgentStatus {
            node: "n1".into(),
            ready: true,
            problems: Vec::new(),
            public_key: PublicKey::from_bytes([7; 32]),
            key_epoch: 1,
            pod_cidrs: Vec::new(),
            refused: Vec::new(),
            tunnel: None,
            controllers: Vec::new(),
        }
    }

    #[test]
    fn before_it_is_installed_silence_is_no_problem() {
        let facts = Facts { installed: false, unsure: None, agent: silent(), tunnel: silent(), guard: None };
        assert!(judge(&facts).iter().all(|finding| finding.severity == Severity::Skipped));
        let facts = Facts { installed: true, guard: Some(Ok(false)), ..facts };
        let problems: Vec<_> = judge(&facts).into_iter().map(|f| (f.check, f.severity)).collect();
        assert_eq!(problems, [AGENT, TUNNEL, GUARD].map(|check| (check, Severity::Problem)));
    }

    #[test]
    fn the_agents_own_words_are_passed_on() {
        let refused = Refused { node: "n2".into(), reason: "r".into(), message: "its key is n1's".into() };
        let many = AgentStatus { refused: vec![refused.clone(); 12], ..status() };
        assert_eq!(agent(&Ok(many)).last().unwrap().seen, "refuses 2 more nodes");
        let sick = AgentStatus { problems: vec!["no TUN".into()], refused: vec![refused], ..status() };
        let found: Vec<_> = agent(&Ok(sick)).into_iter().map(|f| (f.severity, f.seen)).collect();
        assert_eq!(found[0], (Severity::Problem, "no TUN".into()));
        assert_eq!(found[1], (Severity::Warning, "refuses node n2: its key is n1's".into()));
        assert_eq!(agent(&Ok(status()))[0].severity, Severity::Ok);
        assert_eq!(agent(&Ok(AgentStatus { ready: false, ..status() }))[0].severity, Severity::Problem);
    }

    #[test]
    fn peers_that_do_not_answer_are_named() {
        use PeerState::{Established, Handshaking, Idle, NoEndpoint};
        assert_eq!(peers(&device(&[("a", Established), ("b", Idle)])).severity, Severity::Ok);
        let finding = peers(&device(&[("a", Established), ("b", Handshaking)]));
        assert!(finding.severity == Severity::Warning && finding.seen.ends_with("from b"), "{finding:?}");
        assert!(peers(&device(&[("c", NoEndpoint)])).seen.ends_with("of c"));
    }
}
