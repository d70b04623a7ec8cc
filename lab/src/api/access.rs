//! Users by bearer token, what they may do, and the kubeconfig that lets a client in.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::call::Request;
use super::{failure::Failure, object};

/// Who a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Name, as in the log of requests.
    pub name: String,
    /// What the user may do.
    pub access: Access,
}

/// What a user may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Everything,
    /// What the agent on the node of that name needs: read all but secrets, change its own Node and no other, write the
    /// status of its own KeyRotation, Events and Leases.
    Node(String),
}

impl User {
    /// A user who may do everything.
    #[must_use]
    pub fn admin(name: &str) -> Self {
        Self { name: name.to_owned(), access: Access::Everything }
    }

    /// The agent of a node.
    #[must_use]
    pub fn agent(node: &str) -> Self {
        Self { name: format!("agent:{node}"), access: Access::Node(node.to_owned()) }
    }

    pub(super) fn may(&self, request: &Request) -> Result<(), Failure> {
        let Access::Node(node) = &self.access else { return Ok(()) };
        let plural = request.resource.map_or("", |resource| resource.plural);
        let allowed = match (request.verb, plural) {
            (_, "secrets") => false,
            ("get" | "list" | "watch", _) => true,
            ("update" | "patch", "nodes") => request.name == *node,
            ("update" | "patch", "keyrotations") => request.name == *node && request.subresource == "status",
            ("create" | "update" | "patch", "events" | "leases") => true,
            _ => false,
        };
        let Request { verb, name, .. } = request;
        let message = || format!("{plural} \"{name}\" is forbidden: User \"{}\" cannot {verb} it", self.name);
        if allowed { Ok(()) } else { Err(Failure::forbidden(message())) }
    }
}

#[derive(Debug, Default)]
pub(super) struct Users(RwLock<HashMap<String, User>>);

impl Users {
    /// Lets the user in, in place of an earlier one of that name, by the token returned.
    pub(super) fn add(&self, user: User) -> String {
        let token = object::new_token();
        let mut users = self.0.write().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, other| other.name != user.name);
        users.insert(token.clone(), user);
        token
    }

    pub(super) fn token(&self, name: &str) -> Option<String> {
        let users = self.0.read().unwrap_or_else(PoisonError::into_inner);
        users.iter().find(|(_, user)| user.name == name).map(|(token, _)| token.clone())
    }

    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Option<User> {
        let token = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }
}

/// A kubeconfig with one cluster, one user and one context; every value is quoted as JSON, which YAML contains.
pub(super) fn kubeconfig(ca_pem: &str, url: &str, user: &str, token: &str) -> String {
    let quote = |text: &str| serde_json::Value::from(text).to_string();
    let (ca, url, user, token) = (STANDARD.encode(ca_pem), quote(url), quote(user), quote(token));
    format!(
        r#"apiVersion: v1
kind: Config
clusters:
- name: selvedge-lab
  cluster:
    server: {url}
    certificate-authority-data: {ca}
users:
- name: {user}
  user:
    token: {token}
contexts:
- name: selvedge-lab
  context:
    cluster: selvedge-lab
    user: {user}
current-context: selvedge-lab
"#
    )
}
