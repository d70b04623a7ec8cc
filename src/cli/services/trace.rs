//! What becomes of a packet, for people.

use std::collections::BTreeMap;

use super::list::label;
use super::{field, sentence, table};
use crate::service::trace::{Origin, Trace, TraceVerdict, TracedEndpoint, Translation};

const WIDTH: usize = 80;
/// Endpoints that the table shows; JSON has all.
const ENDPOINTS: usize = 32;

pub(super) fn render(trace: &Trace) -> String {
    let (from, to) = (origin(trace.origin), format!("{}/{}", trace.target, trace.protocol));
    let title = format!("{}: {}, {from}, to {to}", trace.node, trace.source);
    let mut text = table::wrap(&title, WIDTH).join("\n") + "\n";
    text += &service(trace);
    text += &sentence("verdict", &format!("{}: {}", verdict(trace.verdict), trace.reason));
    if trace.verdict == TraceVerdict::Served {
        text += &field("source", &sources(&trace.endpoints));
        text += &sentence("affinity", &affinity(trace.affinity_seconds));
        text += &endpoints(&trace.endpoints);
    }
    if let Some(problem) = &trace.problem {
        text += &format!("problem: {problem}\n");
    }
    text
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Pod => "a pod of this node",
        Origin::Node => "this node itself",
        Origin::Outside => "outside of this node",
    }
}

fn verdict(verdict: TraceVerdict) -> &'static str {
    match verdict {
        TraceVerdict::Served => "served",
        TraceVerdict::Rejected => "rejected",
        TraceVerdict::Dropped => "dropped",
        TraceVerdict::Refused => "refused",
        TraceVerdict::NoService => "not served",
        TraceVerdict::OtherProxy => "not known",
    }
}

fn service(trace: &Trace) -> String {
    let Some(service) = &trace.service else { return String::new() };
    let mut items = vec![service.clone()];
    items.extend(trace.port.map(|port| format!("port {port}/{}", trace.protocol)));
    items.extend(trace.kind.map(|kind| format!("at its {}", label(kind))));
    field("service", &items)
}

/// What endpoints see as the source: in one line, where it is the same for all of them.
fn sources(endpoints: &[TracedEndpoint]) -> Vec<String> {
    let mut counts: BTreeMap<Translation, (usize, &TracedEndpoint)> = BTreeMap::new();
    for endpoint in endpoints {
        counts.entry(endpoint.translation).or_insert((0, endpoint)).0 += 1;
    }
    let is_one = counts.len() == 1;
    let of = |(count, endpoint): &(usize, &TracedEndpoint)| {
        let seen = endpoint.source.map(|source| format!("{source} ")).unwrap_or_default();
        let seen = match endpoint.translation {
            Translation::Kept => format!("{seen}(kept)"),
            Translation::Fabric => format!("{seen}(fabric address)"),
            Translation::Uplink => "address of the device that it leaves by".to_owned(),
        };
        if is_one { seen } else { format!("{seen} to {count}") }
    };
    counts.values().map(of).collect()
}

fn affinity(seconds: Option<u64>) -> String {
    match seconds {
        Some(seconds) => {
            format!("a client comes back to its endpoint within {seconds} s of its last connection")
        }
        None => "none".to_owned(),
    }
}

fn endpoints(endpoints: &[TracedEndpoint]) -> String {
    let rows: Vec<Vec<String>> = endpoints.iter().take(ENDPOINTS).map(row).collect();
    let mut text = table::render(&["ENDPOINT", "NODE", "SHARE", "SOURCE"], &rows, &[2]);
    if let Some(more) = endpoints.len().checked_sub(ENDPOINTS).filter(|more| *more > 0) {
        text += &format!("and {more} more; --output json has them\n");
    }
    text
}

fn row(endpoint: &TracedEndpoint) -> Vec<String> {
    let source = match endpoint.translation {
        Translation::Kept => "kept",
        Translation::Fabric => "fabric",
        Translation::Uplink => "uplink",
    };
    vec![
        endpoint.address.to_string(),
        if endpoint.local { "this" } else { "other" }.to_owned(),
        format!("{:.1}%", endpoint.percent),
        format!("{source}{}", if endpoint.hairpin { ", hairpin" } else { "" }),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::*;
    use crate::kernel::protocol::Protocol;
    use crate::service::plan::Action;
    use crate::service::target::Kind;

    fn address(last: u16) -> IpAddr {
        IpAddr::from([0x2001, 0xdb8, 0x1111, 0x2222, 0x3333, 0x4444, 0x5555, last])
    }

    fn trace(count: u16) -> Trace {
        let endpoint = |number: u16| {
            let hairpin = number == 0;
            TracedEndpoint {
                address: SocketAddr::new(address(number), 30_080),
                local: hairpin,
                percent: 100.0 / f64::from(count),
                hairpin,
                translation: if hairpin { Translation::Fabric } else { Translation::Kept },
                source: Some(address(if hairpin { 0x1111 } else { 0x2222 })),
            }
        };
        Trace {
            node: "worker-1".into(),
            problem: None,
            source: address(0x2222),
            origin: Origin::Pod,
            target: SocketAddr::new(address(0x3333), 30_080),
            protocol: Protocol::Tcp,
            service: Some("default/web".into()),
            port: Some(80),
            kind: Some(Kind::NodePort),
            verdict: TraceVerdict::Served,
            reason: "by endpoints of the whole cluster: internalTrafficPolicy is Cluster".into(),
            action: Some(Action::Cluster),
            endpoints: (0..count).map(endpoint).collect(),
            affinity_seconds: Some(10_800),
        }
    }

    #[test]
    fn the_answer_names_what_matters_and_cuts_no_address() {
        let text = render(&trace(3));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for part in [
            "worker-1: 2001:db8:1111:2222:3333:4444:5555:2222, a pod of this node, to\n[2001:",
            "  service       default/web, port 80/TCP, at its node port\n",
            "  verdict       served: by endpoints of the whole cluster:",
            ":2222 (kept) to 2,\n",
            ":1111 (fabric address) to 1\n",
            "[2001:db8:1111:2222:3333:4444:5555:0]:30080  this   33.3%  fabric, hairpin\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(render(&trace(40)).contains("and 8 more; --output json has them\n"));
    }

    #[test]
    fn what_is_not_served_has_a_cause_and_no_endpoints() {
        let trace = Trace {
            verdict: TraceVerdict::Dropped,
            reason: "externalTrafficPolicy is Local".into(),
            endpoints: Vec::new(),
            problem: Some("waiting".into()),
            ..trace(1)
        };
        let text = render(&trace);
        assert!(text.ends_with("dropped: externalTrafficPolicy is Local\nproblem: waiting\n"), "{text}");
    }
}
