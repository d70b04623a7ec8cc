//! Probes for another service proxy on this node, by kube-proxy's ports, and derives whether this agent serves Services.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use http::header;

use crate::agent::context::{Context, Role};
use crate::agent::control::Trigger;
use crate::config::Services;
use crate::kernel::kube_proxy::{IPVS_DEVICE, Rules};
use crate::kernel::nft::{self, Family};
use crate::observe::ask::{self, Answer};
use crate::ports::answer::{HEALTHZ_PORT, MODE_PORT, SERVER};
use crate::service::coexistence::{Coexistence, Other, Seen};
use crate::service::table::TABLE;

/// Timeout of a request.
const ANSWER: Duration = Duration::from_secs(1);
/// kube-proxy's metric of when it last wrote rules: 0 for never; since 1.34 one sample per family.
const SYNCED: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";

/// Probes until dropped, and keeps the context's role up to date.
pub(in crate::agent) async fn follow(context: &Context) {
    let configured = context.config.services;
    if configured == Services::Off {
        return std::future::pending().await;
    }
    let served = nft::tables(Family::Inet).is_ok_and(|tables| tables.contains(TABLE));
    let mut coexistence = Coexistence::new(served || configured == Services::On, Instant::now());
    if has_rules(context).await {
        // kube-proxy may have been started while no agent was running.
        coexistence.rules_changed(Instant::now());
    }
    loop {
        let seen = probe(context, coexistence.serves() == Some(true)).await;
        let now = Instant::now();
        let has_rules = coexistence.serves().is_none() && has_rules(context).await;
        coexistence.see(&seen, has_rules, now);
        set(context, configured, &coexistence, &seen, now);
        let rest = tokio::time::sleep(coexistence.interval(now));
        tokio::select! {
            () = rest => {}
            () = context.proxy_changed.notified() => {
                coexistence.rules_changed(Instant::now());
                set(context, configured, &coexistence, &seen, Instant::now());
                // `selvedge ports` has not released the ports yet.
                tokio::time::sleep(ANSWER).await;
            }
        }
    }
}

fn set(context: &Context, configured: Services, coexistence: &Coexistence, seen: &Seen, now: Instant) {
    let always = configured == Services::On;
    let role = Role {
        serves: if always { Some(true) } else { coexistence.serves() },
        holds_ports: always || coexistence.holds_ports(now),
        is_alone: coexistence.is_alone(now),
        other: match seen {
            Seen::Other(other) => Some(other.mode.clone()),
            Seen::Silent => Some(String::new()),
            Seen::Nobody | Seen::Holder => None,
        },
    };
    let before = context.role.get();
    if before == role {
        return;
    }
    if before.serves != role.serves || before.other != role.other {
        let mode = coexistence.mode();
        match (role.serves, &role.other) {
            (Some(true), Some(_)) => {
                tracing::warn!(mode, "kube-proxy runs on this node although Selvedge serves its Services");
            }
            (Some(true), None) => tracing::info!("serving the Services of this node"),
            (Some(false), Some(_)) => tracing::info!(mode, "kube-proxy serves the Services of this node"),
            (Some(false), None) => tracing::info!(mode, "kube-proxy does not answer any more"),
            (None, _) => {}
        }
    }
    context.role.set(role);
    context.bus.post(Trigger::Role);
}

async fn has_rules(context: &Context) -> bool {
    let ipvs = context.facts.get().link(IPVS_DEVICE).is_some();
    let read = tokio::task::spawn_blocking(move || Rules::read(ipvs)).await;
    match read.map_err(anyhow::Error::from).and_then(|rules| Ok(rules?)) {
        Ok(rules) => rules.may_be(),
        Err(error) => {
            tracing::warn!(%error, "cannot list kube-proxy's rules, assuming that there are some");
            true
        }
    }
}

/// What answers on kube-proxy's ports, on loopback and on the Node's addresses. `whole`: also whether its rules are complete.
async fn probe(context: &Context, whole: bool) -> Seen {
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let own = context.own().map(|own| own.internal.clone()).unwrap_or_default();
    let own: BTreeSet<IpAddr> = own.into_iter().collect();
    let mut listens = false;
    for address in loopback.into_iter().chain(own) {
        for seen in [mode(address, whole).await, health(address).await] {
            match seen {
                Ok(Some(seen)) => return seen,
                Ok(None) => {}
                Err(error) => listens |= error.kind() == io::ErrorKind::TimedOut,
            }
        }
    }
    if listens { Seen::Silent } else { Seen::Nobody }
}

/// None if the server is not a service proxy.
async fn mode(address: IpAddr, whole: bool) -> io::Result<Option<Seen>> {
    let server = SocketAddr::new(address, MODE_PORT);
    let answer = ask::get(server, "/proxyMode", ANSWER).await?;
    if is_holder(&answer) {
        return Ok(Some(Seen::Holder));
    }
    let mode = answer.body.trim().to_owned();
    let is_mode = (1..=32).contains(&mode.len()) && mode.bytes().all(|it| it.is_ascii_alphanumeric());
    if !answer.status.is_success() || !is_mode {
        return Ok(None);
    }
    let is_complete = match whole {
        true => ask::get(server, "/metrics", ANSWER).await.ok().and_then(|it| is_complete(&it.body)),
        false => None,
    };
    Ok(Some(Seen::Other(Other { mode, is_complete })))
}

async fn health(address: IpAddr) -> io::Result<Option<Seen>> {
    let answer = ask::get(SocketAddr::new(address, HEALTHZ_PORT), "/healthz", ANSWER).await?;
    if is_holder(&answer) {
        return Ok(Some(Seen::Holder));
    }
    let is_proxy = serde_json::from_str::<serde_json::Value>(&answer.body)
        .is_ok_and(|body| body.get("lastUpdated").is_some());
    Ok(is_proxy.then(|| Seen::Other(Other { mode: String::new(), is_complete: None })))
}

fn is_holder(answer: &Answer) -> bool {
    answer.headers.get(header::SERVER).is_some_and(|server| server == SERVER)
}

/// None if the metric is missing.
fn is_complete(metrics: &str) -> Option<bool> {
    let values = metrics.lines().filter(|line| line.starts_with(SYNCED)).filter_map(|line| {
        let (_, value) = line.rsplit_once(' ')?;
        value.parse::<f64>().ok()
    });
    values.map(|value| value > 0.0).reduce(|one, two| one && two)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_complete_when_those_of_both_families_are() {
        let metrics = |values: &[&str]| {
            let mut text =
                "# HELP kubeproxy_sync_proxy_rules_last_timestamp_seconds [ALPHA] ...\n".to_owned();
            for (value, family) in values.iter().zip(["IPv4", "IPv6"]) {
                text += &format!("{SYNCED}{{ip_family=\"{family}\"}} {value}\n");
            }
            is_complete(&text)
        };
        assert_eq!(metrics(&[]), None);
        assert_eq!(metrics(&["1.7e+09", "0"]), Some(false));
        assert_eq!(metrics(&["1.7e+09", "1.7e+09"]), Some(true));
        assert_eq!(is_complete(&format!("{SYNCED} 0")), Some(false));
    }
}
