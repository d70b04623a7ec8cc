//! What is not about objects: versions, health, and which resources there are.

use serde_json::{Map, Value, json};

use super::resource::{self, Resource, VERSION, of_group, version_of};
use super::{call::Request, failure::Failure};

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// The media type of aggregated discovery, which must come back as it was asked for.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A body and its media type.
pub(super) enum Page {
    Text(&'static str),
    Json(&'static str, Value),
}

/// Whether the path is served to anyone.
pub(super) fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/livez" | "/readyz" | "/version")
}

pub(super) fn page(request: &Request) -> Result<Page, Failure> {
    let aggregated = request.accept.split(',').any(|media| media.trim() == AGGREGATED);
    let path = request.path.trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let value = match parts.as_slice() {
        ["healthz" | "livez" | "readyz"] => return Ok(Page::Text("ok")),
        ["api"] if aggregated => return Ok(Page::Json(AGGREGATED, aggregate(&[""]))),
        ["apis"] if aggregated => return Ok(Page::Json(AGGREGATED, aggregate(&resource::groups()))),
        ["version"] => version(),
        ["api"] => json!({ "kind": "APIVersions", "versions": [VERSION], "serverAddressByClientCIDRs": [] }),
        ["apis"] => {
            let groups: Vec<_> = resource::groups().into_iter().map(group).collect();
            json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
        }
        ["apis", name] => group(known(name)?),
        ["api", VERSION] => resources(""),
        ["apis", name, version] if *version == version_of(name) => resources(known(name)?),
        ["openapi", "v3"] => openapi_index(),
        ["openapi", "v3", "api", VERSION] => openapi(""),
        ["openapi", "v3", "apis", name, version] if *version == version_of(name) => openapi(known(name)?),
        _ => return Err(Failure::no_such_path()),
    };
    Ok(Page::Json("application/json", value))
}

fn known(name: &str) -> Result<&'static str, Failure> {
    resource::groups().into_iter().find(|group| *group == name).ok_or_else(Failure::no_such_path)
}

fn version() -> Value {
    json!({ "major": "1", "minor": "36", "gitVersion": "v1.36.0+selvedge-lab", "gitCommit": "", "gitTreeState": "",
        "buildDate": "", "goVersion": "", "compiler": "rustc", "platform": "linux" })
}

fn group(name: &str) -> Value {
    let version = version_of(name);
    let version = json!({ "groupVersion": format!("{name}/{version}"), "version": version });
    json!({ "kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [version], "preferredVersion": version })
}

fn resources(group: &str) -> Value {
    let entry = |name: String, resource: &Resource, verbs: &[&str]| {
        json!({ "name": name, "singularName": resource.kind.to_lowercase(), "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": verbs, "shortNames": resource.short })
    };
    let mut list = Vec::new();
    for resource in of_group(group) {
        list.push(entry(resource.plural.to_owned(), resource, &VERBS));
        if resource.status {
            list.push(entry(format!("{}/status", resource.plural), resource, &["get", "patch", "update"]));
        }
    }
    let version = of_group(group).next().map(Resource::api_version);
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": list })
}

fn aggregate(groups: &[&str]) -> Value {
    let entry = |resource: &'static Resource| {
        let kind = json!({ "group": resource.group, "version": resource.version, "kind": resource.kind });
        let status =
            json!({ "subresource": "status", "responseKind": kind, "verbs": ["get", "patch", "update"] });
        let subresources = if resource.status { vec![status] } else { Vec::new() };
        let categories: &[&str] = if matches!(resource.plural, "pods" | "services") { &["all"] } else { &[] };
        json!({ "resource": resource.plural, "responseKind": kind, "verbs": VERBS, "shortNames": resource.short,
            "categories": categories,
            "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": resource.kind.to_lowercase(), "subresources": subresources })
    };
    let items = groups.iter().map(|group| {
        let resources: Vec<_> = of_group(group).map(entry).collect();
        let version = json!({ "version": version_of(group), "freshness": "Current", "resources": resources });
        json!({ "metadata": { "name": group }, "versions": [version] })
    });
    let items: Vec<_> = items.collect();
    let version = "apidiscovery.k8s.io/v2";
    json!({ "kind": "APIGroupDiscoveryList", "apiVersion": version, "metadata": {}, "items": items })
}

fn openapi_index() -> Value {
    let mut paths = Map::new();
    for group in std::iter::once("").chain(resource::groups()) {
        let path = root(group);
        let url = format!("/openapi/v3/{path}?hash=lab");
        paths.insert(path, json!({ "serverRelativeURL": url }));
    }
    json!({ "paths": paths })
}

fn root(group: &str) -> String {
    let version = version_of(group);
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// No schemas: only that objects can be patched with `fieldValidation`, so that `kubectl` leaves validation to us.
fn openapi(group: &str) -> Value {
    let mut paths = Map::new();
    for resource in of_group(group) {
        let namespace = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        let path = format!("/{}/{namespace}{}/{{name}}", root(group), resource.plural);
        let kind = json!({ "group": resource.group, "version": resource.version, "kind": resource.kind });
        let parameters = ["fieldValidation", "dryRun"]
            .map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } }));
        let patch =
            json!({ "x-kubernetes-group-version-kind": kind, "parameters": parameters, "responses": {} });
        paths.insert(path, json!({ "patch": patch }));
    }
    let info = json!({ "title": "Kubernetes", "version": "v1.36.0" });
    json!({ "openapi": "3.0.0", "info": info, "paths": paths, "components": { "schemas": {} } })
}
