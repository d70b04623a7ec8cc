//! Asks the API server.

use std::time::Duration;

use anyhow::Context as _;
use http::{Request, header};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::client::Body;
use kube::{Api, Client};

use super::super::clock;
use super::super::finding::Finding;
use super::Access;
use super::access::{self, Rights};
use super::admission::{FoundPolicy, POLICIES, ShippedPolicy};
use super::ranges::Ranges;
use super::reason::reason;
use crate::api_server;
use crate::cluster::discover;

const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(10);

/// What could be asked; an error is for people.
pub(super) struct Facts {
    pub(super) server: String,
    pub(super) version: String,
    pub(super) clock: Option<Finding>,
    pub(super) nodes: Result<Vec<Node>, String>,
    pub(super) rights: Rights,
    /// In the order of [`POLICIES`].
    pub(super) policies: Vec<FoundPolicy>,
    pub(super) ranges: Result<Ranges, String>,
}

/// # Errors
/// When there is no API server to ask, for people.
pub(super) async fn gather(access: &Access) -> Result<Facts, String> {
    let plain = |error: anyhow::Error| format!("{error:#}");
    // Why each place that was looked into has none is too much where nobody asked for one.
    let unconfigured = |error: anyhow::Error| match access.kubeconfig {
        Some(_) => format!("{error:#}"),
        None => error.to_string(),
    };
    let config = api_server::configuration(access.kubeconfig.as_deref(), "doctor").await;
    let mut config = config.map_err(unconfigured)?;
    (config.connect_timeout, config.read_timeout) = (Some(CONNECT), Some(ANSWER));
    config.default_retry = false;
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config.clone()).map_err(|error| error.to_string())?;
    let (version, clock) = version(&client).await.map_err(plain)?;
    let rights = match &access.as_agent {
        Some(user) => {
            let agent = Client::try_from(impersonating(config, user)).map_err(|error| error.to_string())?;
            access::gather(&agent, true).await
        }
        None => access::gather(&client, false).await,
    };
    let seen = discover::Facts::fetch(&client).await;
    let seen = seen.map_err(|error| error.to_string());
    let ranges = |seen: &discover::Facts| Ranges { pods: seen.pod_cidrs(), services: seen.service_cidrs() };
    Ok(Facts {
        server,
        version,
        clock,
        ranges: seen.as_ref().map(ranges).map_err(String::clone),
        nodes: seen.map(|seen| seen.nodes),
        rights,
        policies: policies(&client).await,
    })
}

async fn policies(client: &Client) -> Vec<FoundPolicy> {
    let mut found = Vec::new();
    for ShippedPolicy { name, .. } in &POLICIES {
        found.push(FoundPolicy {
            policy: optional(Api::all(client.clone()).get_opt(name).await),
            binding: optional(Api::all(client.clone()).get_opt(name).await),
        });
    }
    found
}

/// Asks as `user` and as nobody beside, whomever the kubeconfig impersonates.
fn impersonating(mut config: kube::Config, user: &str) -> kube::Config {
    let who = &mut config.auth_info;
    who.impersonate = Some(user.to_owned());
    (who.impersonate_uid, who.impersonate_groups, who.impersonate_user_extra) = (None, None, None);
    config
}

fn optional<T>(result: kube::Result<Option<T>>) -> Result<Option<T>, String> {
    result.map_err(|error| reason(&error))
}

/// The server's version, and how far its clock is from ours.
async fn version(client: &Client) -> anyhow::Result<(String, Option<Finding>)> {
    let request = Request::get("/version").body(Body::empty()).context("make a request")?;
    let asked = Timestamp::now();
    let response = tokio::time::timeout(ANSWER, client.send(request))
        .await
        .context("the API server does not answer")?
        .context("the API server cannot be reached")?;
    let answered = Timestamp::now();
    let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    let clock = date.and_then(|date| clock::compare(date, asked, answered));
    anyhow::ensure!(response.status().is_success(), "the API server says {}", response.status());
    let body = response.into_body().collect_bytes().await.context("read the API server's version")?;
    let value: serde_json::Value = serde_json::from_slice(&body).context("read the API server's version")?;
    Ok((value["gitVersion"].as_str().unwrap_or("of unknown version").to_owned(), clock))
}

#[cfg(test)]
mod tests {
    use kube::config::{KubeConfigOptions, Kubeconfig};

    use super::*;

    #[tokio::test]
    async fn the_kubeconfigs_own_impersonation_does_not_stay() {
        let text = "{clusters: [{name: c, cluster: {server: 'https://192.0.2.1'}}], current-context: x, \
                    contexts: [{name: x, context: {cluster: c, user: u}}], users: [{name: u, user: {as: root, \
                    as-uid: '0', as-groups: ['system:masters'], as-user-extra: {scopes: [all]}}}]}";
        let read = Kubeconfig::from_yaml(text).unwrap();
        let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.unwrap();
        assert!(config.auth_info.impersonate_groups.is_some());
        let who = impersonating(config, "agent").auth_info;
        assert_eq!(who.impersonate.as_deref(), Some("agent"));
        assert!(who.impersonate_uid.is_none() && who.impersonate_groups.is_none());
        assert!(who.impersonate_user_extra.is_none());
    }
}
