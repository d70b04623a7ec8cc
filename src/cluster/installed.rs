//! What an installation was told before: who runs `selvedge install` again does not want to lose it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

use super::{Error, absent};
use crate::manifest::{AGENT, ApiServer, NAMESPACE, SERVER_HOST, SERVER_PORT};

/// As the agent's DaemonSet says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Image of the agent.
    pub image: String,
    /// Its configuration, if that is to be had.
    pub config: Option<Text>,
    /// The API server's own address, if it was given one.
    pub api_server: Option<ApiServer>,
}

/// The text of config.toml.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Name of the ConfigMap.
    pub map: String,
    /// The text.
    pub text: String,
}

impl Installed {
    /// Asks for it; none if there is no agent.
    ///
    /// # Errors
    /// When the API server does not tell.
    pub async fn fetch(client: &Client) -> Result<Option<Self>, Error> {
        let agent = absent(Api::<DaemonSet>::namespaced(client.clone(), NAMESPACE).get(AGENT).await);
        let agent = agent.map_err(|error| Error::call(format!("get DaemonSet {AGENT}"), error))?;
        let Some(agent) = agent else { return Ok(None) };
        let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE).list(&ListParams::default()).await;
        let maps = maps.map_err(|error| Error::call("list our ConfigMaps", error))?.items;
        Ok(Self::new(&agent, &maps))
    }

    fn new(agent: &DaemonSet, maps: &[ConfigMap]) -> Option<Self> {
        let pod = agent.spec.template.spec.as_ref()?;
        let container = pod.containers.iter().find(|container| container.name == "agent")?;
        Some(Self {
            image: container.image.clone()?,
            config: text(pod, maps),
            api_server: api_server(container, maps),
        })
    }
}

fn data<'a>(maps: &'a [ConfigMap], name: &str) -> Option<&'a BTreeMap<String, String>> {
    maps.iter().find(|map| map.name_any() == name)?.data.as_ref()
}

fn text(pod: &PodSpec, maps: &[ConfigMap]) -> Option<Text> {
    let volume = pod.volumes.iter().flatten().find(|volume| volume.name == "config")?;
    let map = volume.config_map.as_ref()?.name.clone();
    let text = data(maps, &map)?.get("config.toml")?.clone();
    Some(Text { map, text })
}

/// `selvedge install` and the overlay write a ConfigMap of variables, the chart the variables themselves.
fn api_server(container: &Container, maps: &[ConfigMap]) -> Option<ApiServer> {
    let from = container.env_from.iter().flatten().filter_map(|from| from.config_map_ref.as_ref());
    let from: Vec<_> = from.filter_map(|map| data(maps, &map.name)).collect();
    let value = |name: &str| {
        let own = container.env.iter().flatten().find(|variable| variable.name == name);
        let own = own.and_then(|variable| variable.value.clone());
        own.or_else(|| from.iter().find_map(|data| data.get(name).cloned()))
    };
    Some(ApiServer { host: value(SERVER_HOST)?, port: value(SERVER_PORT)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::manifest::{Distribution, Settings, configuration};

    fn of<T: serde::de::DeserializeOwned>(settings: &Settings, kind: &str) -> Vec<T> {
        let objects = settings.objects().into_iter().filter(|object| object.0["kind"] == kind);
        objects.map(|object| serde_json::from_value(object.0).unwrap()).collect()
    }

    #[test]
    fn what_was_told_is_read_back() {
        let text = include_str!("../../deploy/overlays/kubeadm/config.toml");
        let mut settings = Settings {
            distribution: Distribution::Kubeadm,
            text: text.into(),
            config: configuration::parse(Path::new("x"), text).unwrap(),
            image: "registry.example/selvedge:1".into(),
            api_server: Some("[2001:db8::10]:6443".parse().unwrap()),
        };
        let read = |settings: &Settings| {
            let sets: Vec<DaemonSet> = of(settings, "DaemonSet");
            let agent = sets.iter().find(|set| set.name_any() == AGENT).unwrap();
            Installed::new(agent, &of::<ConfigMap>(settings, "ConfigMap")).unwrap()
        };
        let installed = read(&settings);
        assert_eq!((&installed.image, &installed.api_server), (&settings.image, &settings.api_server));
        let config = installed.config.unwrap();
        assert!(config.text == text && config.map.starts_with("selvedge-config-"), "{config:?}");
        settings.api_server = None;
        assert_eq!(read(&settings).api_server, None);
    }

    #[test]
    fn the_chart_has_the_api_server_in_the_container() {
        let container = json!({"name": "agent", "env": [
            {"name": SERVER_HOST, "value": "192.0.2.10"}, {"name": SERVER_PORT, "value": "6443"}]});
        let server = api_server(&serde_json::from_value(container).unwrap(), &[]);
        assert_eq!(server.unwrap().to_string(), "192.0.2.10:6443");
    }
}
