//! The file as written: TOML with the places of its values, nothing checked but names and types.

use serde::Deserialize;
use toml::Spanned;

use super::error::Problem;

/// A list whose items know their places.
pub(super) type List = Option<Vec<Spanned<String>>>;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) node_name: Option<Spanned<String>>,
    #[serde(rename = "clusterPodCIDRs")]
    pub(super) cluster_pod_cidrs: List,
    #[serde(rename = "serviceCIDRs")]
    pub(super) service_cidrs: List,
    #[serde(rename = "nonMasqueradeCIDRs")]
    pub(super) non_masquerade_cidrs: List,
    pub(super) trusted_sources: List,
    pub(super) interface: Option<Spanned<String>>,
    pub(super) listen_port: Option<Spanned<i64>>,
    pub(super) mtu: Option<Spanned<i64>>,
    pub(super) endpoints: List,
    pub(super) persistent_keepalive: Option<Spanned<i64>>,
    pub(super) location: Option<Spanned<String>>,
    pub(super) datapath: Option<Spanned<String>>,
    pub(super) iptables_forward_rules: Option<Spanned<bool>>,
    pub(super) services: Option<Spanned<String>>,
    pub(super) remove_kube_proxy_rules: Option<Spanned<bool>>,
    pub(super) node_port_addresses: List,
    pub(super) firewall_mark: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) conntrack: RawConntrack,
    #[serde(default)]
    pub(super) keys: RawKeys,
    #[serde(default)]
    pub(super) cni: RawCni,
    #[serde(default)]
    pub(super) agent: RawAgent,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawConntrack {
    pub(super) max: Option<Spanned<i64>>,
    pub(super) tcp_established_timeout: Option<Spanned<i64>>,
    pub(super) tcp_close_wait_timeout: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawKeys {
    pub(super) cryptoperiod: Option<Spanned<String>>,
    pub(super) rotate: Option<Spanned<String>>,
    pub(super) custodian: Option<Spanned<String>>,
    pub(super) minimum_interval: Option<Spanned<String>>,
    pub(super) warn_before: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawCni {
    pub(super) bin_dir: Option<Spanned<String>>,
    pub(super) conf_dir: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawAgent {
    pub(super) metrics_address: Option<Spanned<String>>,
    pub(super) kubeconfig: Option<Spanned<String>>,
    pub(super) startup_taint: Option<Spanned<String>>,
    pub(super) missing_node_grace: Option<Spanned<i64>>,
}

/// Every key, by its table; the first ones stand above all tables.
const KEYS: [(&str, &[&str]); 5] = [
    (
        "",
        &[
            "nodeName",
            "clusterPodCIDRs",
            "serviceCIDRs",
            "nonMasqueradeCIDRs",
            "trustedSources",
            "interface",
            "listenPort",
            "mtu",
            "endpoints",
            "persistentKeepalive",
            "location",
            "datapath",
            "iptablesForwardRules",
            "services",
            "removeKubeProxyRules",
            "nodePortAddresses",
            "firewallMark",
            "conntrack",
            "keys",
            "cni",
            "agent",
        ],
    ),
    ("conntrack", &["max", "tcpEstablishedTimeout", "tcpCloseWaitTimeout"]),
    ("keys", &["cryptoperiod", "rotate", "custodian", "minimumInterval", "warnBefore"]),
    ("cni", &["binDir", "confDir"]),
    ("agent", &["metricsAddress", "kubeconfig", "startupTaint", "missingNodeGrace"]),
];

/// Reads the file's text.
pub(super) fn parse(text: &str) -> Result<Raw, Problem> {
    toml::from_str(text).map_err(|error| explain(text, &error))
}

/// The line, from 1, of a byte of the text.
pub(super) fn line(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn explain(text: &str, error: &toml::de::Error) -> Problem {
    let span = error.span().unwrap_or_default();
    let line = line(text, span.start);
    let message = error.message();
    if message.starts_with("unknown field ") {
        // The message quotes the unknown key first, then those that this table knows.
        let mut quoted = message.split('`').skip(1).step_by(2);
        let key = quoted.next().unwrap_or_default();
        let remedy = suggestion(key, &quoted.collect::<Vec<_>>());
        return Problem { line: Some(line), key: key.into(), problem: "unknown key".into(), remedy };
    }
    let written = text.lines().nth(line - 1).and_then(|line| line.split_once('='));
    let key = written.map(|(key, _)| key.trim().to_owned()).unwrap_or_default();
    Problem { line: Some(line), key, problem: message.trim().replace('\n', ", "), remedy: String::new() }
}

/// What was probably meant by `key` in a table that knows `here`.
fn suggestion(key: &str, here: &[&str]) -> String {
    if let Some(near) = nearest(key, here) {
        return format!("did you mean `{near}`?");
    }
    let elsewhere = KEYS.iter().find_map(|(table, keys)| nearest(key, keys).map(|near| (*table, near)));
    match elsewhere {
        Some(("", near)) => format!("write `{near}` above the first [table]"),
        Some((table, near)) => format!("write `{near}` under [{table}]"),
        None => format!("known here: {}", here.join(", ")),
    }
}

fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |name: &str| strsim::damerau_levenshtein(&key.to_lowercase(), &name.to_lowercase());
    let best = known.iter().min_by_key(|name| distance(name))?;
    (distance(best) <= best.len() / 4).then_some(*best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_keys_is_the_one_that_serde_knows() {
        for (table, keys) in KEYS {
            let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
            let error = toml::from_str::<Raw>(&format!("{header}nonsense = 1")).unwrap_err();
            let known: Vec<_> = error.message().split('`').skip(3).step_by(2).collect();
            assert_eq!(known, keys, "{}", error.message());
        }
    }
}
