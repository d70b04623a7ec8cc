//! `selvedge status`: the peers of this node.

use jiff::Timestamp;

use super::{Exit, Failure, Output, table};
use crate::agent::status::{AgentStatus, Refused};
use crate::local::{Client, ClientError};
use crate::paths::Paths;
use crate::tunnel::api::{DeviceStatus, PeerState, PeerStatus};

/// Options of `selvedge status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge status
  selvedge status --output json | jq '.tunnel.peers[].lastHandshake'

Exit codes: 0 all is well, 3 the node has problems or refuses another node, 4 the agent does not answer.")]
pub(super) struct Args {
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
    /// Show every refused node. The table shows a few of them; JSON always has them all.
    #[arg(long)]
    all: bool,
}

/// Refused nodes that the table shows without `--all`.
const REFUSED: usize = 5;

#[expect(clippy::print_stdout, reason = "this is the answer")]
pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let status = fetch(&Paths::from_env()).map_err(|error| {
        Failure::new(
            Exit::Unreachable,
            anyhow::Error::new(error).context("cannot ask the agent for its status"),
        )
    })?;
    match args.output {
        Output::Json => {
            let text = serde_json::to_string_pretty(&status).map_err(anyhow::Error::new)?;
            println!("{text}");
        }
        Output::Table => print!("{}", render(&status, args.all, Timestamp::now())),
    }
    let well = status.problems.is_empty() && status.refused.is_empty();
    Ok(if well { Exit::Ok } else { Exit::Findings })
}

fn fetch(paths: &Paths) -> Result<AgentStatus, ClientError> {
    super::block_on(Client::new(&paths.agent_socket()).get("/v1/status"))
}

fn render(status: &AgentStatus, all: bool, now: Timestamp) -> String {
    let ready = if status.ready { "ready" } else { "not ready" };
    let mut text = format!(
        "node {} {ready}, key {} (epoch {})\n",
        status.node,
        status.public_key.short(),
        status.key_epoch
    );
    match &status.tunnel {
        Some(tunnel) => text += &peers(tunnel, now),
        None => text += "tunnel does not answer\n",
    }
    text += &refusals(&status.refused, all);
    for problem in &status.problems {
        text += &format!("problem: {problem}\n");
    }
    text
}

fn refusals(refused: &[Refused], all: bool) -> String {
    let shown = if all { refused.len() } else { REFUSED };
    let mut text = String::new();
    for refused in refused.iter().take(shown) {
        text += &format!("refused: {}: {}\n", refused.node, refused.message);
    }
    if let Some(more) = refused.len().checked_sub(shown).filter(|more| *more > 0) {
        text += &format!("refused: {more} more, {} in all; --all shows them\n", refused.len());
    }
    text
}

fn peers(tunnel: &DeviceStatus, now: Timestamp) -> String {
    if tunnel.peers.is_empty() {
        return "no peers\n".to_owned();
    }
    let rows: Vec<_> = tunnel.peers.iter().map(|peer| row(peer, now)).collect();
    table::render(&["NODE", "ENDPOINT", "KEY", "HANDSHAKE", "RX", "TX", "STATE"], &rows, &[4, 5])
}

fn row(peer: &PeerStatus, now: Timestamp) -> Vec<String> {
    let key = peer.sessions.iter().find(|session| session.sending).or(peer.sessions.first());
    let none = || "-".to_owned();
    vec![
        peer.name.clone(),
        peer.endpoint.map_or_else(none, |endpoint| endpoint.to_string()),
        key.map_or_else(none, |session| session.public_key.short()),
        peer.last_handshake.map_or_else(none, |then| ago(then, now)),
        table::bytes(peer.rx_bytes),
        table::bytes(peer.tx_bytes),
        state(peer.state).to_owned(),
    ]
}

fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Established => "established",
        PeerState::Handshaking => "handshaking",
        PeerState::Idle => "idle",
        PeerState::NoEndpoint => "no endpoint",
        PeerState::Unknown => "unknown",
    }
}

fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s ago"),
        120..7200 => format!("{}m ago", seconds / 60),
        _ => format!("{}h ago", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use selvedge_keys::PublicKey;

    use super::*;
    use crate::tunnel::api::{Counters, Features, SessionStatus};

    fn status() -> AgentStatus {
        let key = PublicKey::from_bytes([7; 32]);
        let session = SessionStatus {
            own_epoch: 1,
            peer_epoch: 1,
            public_key: key,
            confirmed: true,
            sending: true,
            last_handshake: None,
        };
        let peer = PeerStatus {
            name: "worker-2.eu-central.example".into(),
            state: PeerState::Established,
            endpoint: Some("[2001:db8::2]:51830".parse().unwrap()),
            source: None,
            allowed_ips: Vec::new(),
            persistent_keepalive: None,
            last_handshake: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            rx_bytes: 5 << 20,
            tx_bytes: 17,
            preshared_key: false,
            sessions: vec![session],
        };
        let tunnel = DeviceStatus {
            device: "selvedge0".into(),
            managed: true,
            listen_port: 51830,
            identities: Vec::new(),
            features: Features::default(),
            peers: vec![peer],
            counters: Counters::default(),
            capabilities: Vec::new(),
        };
        AgentStatus {
            node: "worker-1".into(),
            ready: true,
            problems: Vec::new(),
            public_key: key,
            key_epoch: 1,
            pod_cidrs: Vec::new(),
            refused: vec![Refused {
                node: "x".into(),
                reason: "r".into(),
                message: "its key is ours".into(),
            }],
            tunnel: Some(tunnel),
            controllers: Vec::new(),
        }
    }

    #[test]
    fn the_table_fits_a_terminal_and_names_what_matters() {
        let text = render(&status(), false, "2026-01-01T00:00:42Z".parse().unwrap());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for part in
            ["worker-1 ready", "2001:db8::2", "42s ago", "5.0 MiB", "17 B", "established", "its key is ours"]
        {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }

    #[test]
    fn of_many_refusals_a_few_are_shown_and_all_are_counted() {
        let refused = |number| Refused {
            node: format!("node-{number}"),
            reason: "r".into(),
            message: "its key is ours".into(),
        };
        let with = |count| AgentStatus { refused: (0..count).map(refused).collect(), ..status() };
        let lines = |count, all| {
            let text = render(&with(count), all, Timestamp::UNIX_EPOCH);
            text.lines().filter(|line| line.starts_with("refused: ")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!((lines(5, false).len(), lines(1000, true).len()), (5, 1000));
        let few = lines(1000, false);
        assert_eq!(few.len(), 6);
        assert_eq!(few[0], "refused: node-0: its key is ours");
        assert_eq!(few[5], "refused: 995 more, 1000 in all; --all shows them");
    }

    #[test]
    fn json_round_trips_with_all_refusals() {
        let refused = Refused { node: "x".into(), reason: "r".into(), message: "its key is ours".into() };
        let status = AgentStatus { refused: vec![refused; 1000], ..status() };
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<AgentStatus>(&text).unwrap(), status);
    }
}
