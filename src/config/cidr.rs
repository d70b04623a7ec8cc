//! The four lists of prefixes, checked together.

use std::fmt::Display;

use ipnet::IpNet;

use super::error::Problem;
use super::range;
use super::value::Value;

/// The lists as written.
pub(super) struct Lists {
    pub(super) pods: Vec<Value<String>>,
    pub(super) services: Vec<Value<String>>,
    pub(super) plain: Vec<Value<String>>,
    pub(super) trusted: Vec<Value<String>>,
}

/// The lists as they should be.
pub(super) struct Cidrs {
    pub(super) pods: Vec<IpNet>,
    pub(super) services: Vec<IpNet>,
    pub(super) plain: Vec<IpNet>,
    pub(super) trusted: Vec<IpNet>,
}

/// Notes every problem and gives the prefixes that have none of their own.
pub(super) fn check(lists: &Lists, problems: &mut Vec<Problem>) -> Cidrs {
    let pods = required("clusterPodCIDRs", "the cluster's pod addresses", &lists.pods, problems);
    let services = required("serviceCIDRs", "the cluster's Service addresses", &lists.services, problems);
    let plain = parsed(&lists.plain, problems);
    let trusted = parsed(&lists.trusted, problems);
    let inside: Vec<_> = pods.iter().chain(&services).cloned().collect();
    apart(&inside, problems);
    apart(&plain, problems);
    apart(&trusted, problems);
    for outside in plain.iter().chain(&trusted) {
        if let Some(net) = inside.iter().find(|net| range::overlap(&net.value, &outside.value)) {
            let problem = format!("{} overlaps {}, the cluster's own {}", outside.value, net.key, net.value);
            problems.push(outside.problem(problem, "list what is outside the cluster alone"));
        }
    }
    let nets = |list: Vec<Value<IpNet>>| list.into_iter().map(|net| net.value).collect();
    Cidrs { pods: nets(pods), services: nets(services), plain: nets(plain), trusted: nets(trusted) }
}

fn required(
    key: &str,
    what: impl Display,
    texts: &[Value<String>],
    problems: &mut Vec<Problem>,
) -> Vec<Value<IpNet>> {
    if texts.is_empty() {
        let remedy = format!("write {what}, of both families if it has both: {key} = [\"10.0.0.0/16\"]");
        problems.push(Problem {
            line: None,
            key: key.into(),
            problem: "required but not set".into(),
            remedy,
        });
    }
    parsed(texts, problems)
}

fn parsed(texts: &[Value<String>], problems: &mut Vec<Problem>) -> Vec<Value<IpNet>> {
    let mut nets = Vec::new();
    for text in texts {
        match net(text) {
            Ok(value) => nets.push(Value { value, line: text.line, key: text.key.clone() }),
            Err(problem) => problems.push(problem),
        }
    }
    nets
}

fn net(text: &Value<String>) -> Result<IpNet, Problem> {
    let Value { value, .. } = text;
    let Ok(net) = value.parse::<IpNet>() else {
        let remedy = match value.parse::<std::net::IpAddr>() {
            Ok(address) => format!("write {}", IpNet::from(address)),
            Err(_) => "write it like 10.0.0.0/16 or fd00::/48".into(),
        };
        return Err(text.problem(format!("`{value}` is no prefix"), remedy));
    };
    if net.prefix_len() == 0 {
        return Err(text.problem(format!("{net} is a default route"), "write the prefixes really meant"));
    }
    if net.trunc() != net {
        return Err(text.problem(format!("{net} has host bits set"), format!("write {}", net.trunc())));
    }
    match range::special_in(&net) {
        Some(range) => Err(text.problem(format!("{net} touches the {range} range"), "choose another prefix")),
        None => Ok(net),
    }
}

/// Notes each prefix that shares addresses with one before it.
fn apart(nets: &[Value<IpNet>], problems: &mut Vec<Problem>) {
    for (index, net) in nets.iter().enumerate() {
        let Some(before) = nets[..index].iter().find(|before| range::overlap(&before.value, &net.value))
        else {
            continue;
        };
        let place = before.line.map(|line| format!(" of line {line}")).unwrap_or_default();
        let problem = match before.value == net.value {
            true => format!("{} repeats {}{place}", net.value, before.key),
            false => format!("{} overlaps {} {}{place}", net.value, before.key, before.value),
        };
        problems.push(net.problem(problem, "keep one, or make them disjoint"));
    }
}
