//! What a request asks for, read from its head.

use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, Method, request};

use super::failure::Failure;
use super::form::Form;
use super::resource::Resource;
use super::selector::Selector;

/// What a request asks for. Faults choose by it, and the log keeps it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Who asks; empty for nobody known.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: &'static str,
    /// Path without query.
    pub path: String,
    /// Query, undecoded.
    pub query: String,
    /// The resource; none for discovery and the like.
    pub resource: Option<&'static Resource>,
    /// Empty for a resource of the whole cluster, and for all namespaces.
    pub namespace: String,
    /// Empty for a collection.
    pub name: String,
    /// `status`, `binding`, ... or empty.
    pub subresource: String,
    /// Media type of the body: for a patch, its kind.
    pub content_type: String,
    /// The client's `User-Agent`.
    pub agent: String,
    /// The client's `Accept`.
    pub accept: String,
}

impl Request {
    pub(super) fn of(head: &request::Parts) -> Self {
        let path = head.uri.path();
        let mut request = Self {
            path: path.to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            content_type: header(&head.headers, &CONTENT_TYPE),
            agent: header(&head.headers, &USER_AGENT),
            accept: header(&head.headers, &ACCEPT),
            ..Self::default()
        };
        request.locate(path);
        request.verb = match head.method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if request.name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            _ if request.resource.is_none() => "get",
            _ if request.flag("watch") => "watch",
            _ if request.name.is_empty() => "list",
            _ => "get",
        };
        request
    }

    fn locate(&mut self, path: &str) {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return,
        };
        let (namespace, rest) = match rest {
            ["namespaces", _, "status" | "finalize"] => ("", rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            _ => ("", rest),
        };
        let Some((plural, rest)) = rest.split_first() else { return };
        self.resource =
            Resource::find(group, version, plural).filter(|found| found.namespaced || namespace.is_empty());
        self.namespace = decode(namespace);
        self.name = decode(rest.first().copied().unwrap_or_default());
        self.subresource = rest.get(1..).unwrap_or_default().join("/");
    }

    /// A parameter of the query; empty if absent.
    pub(super) fn param(&self, name: &str) -> String {
        let mut pairs = self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(key, _)| decode(key) == name).map(|(_, value)| decode(value)).unwrap_or_default()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.param(name).as_str(), "true" | "1")
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        let text = self.param(name);
        if text.is_empty() {
            return Ok(None);
        }
        text.parse()
            .map(Some)
            .map_err(|_| Failure::bad_request(format!("{name}: \"{text}\" is not a number")))
    }

    pub(super) fn selector(&self) -> Result<Selector, Failure> {
        Selector::parse(&self.param("labelSelector"), &self.param("fieldSelector"))
    }

    pub(super) fn form(&self) -> Form {
        Form::of(&self.accept, &self.param("includeObject"))
    }

    /// The namespace to restrict a list to.
    pub(super) fn within(&self) -> Option<&str> {
        Some(self.namespace.as_str()).filter(|namespace| !namespace.is_empty())
    }
}

fn header(headers: &HeaderMap, name: &HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// Undoes percent-encoding and `+`; what is no proper encoding stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let hex = text.get(index + 1..index + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let (value, length) = match (byte, hex) {
            (b'%', Some(value)) => (value, 3),
            (b'+', _) => (b' ', 1),
            _ => (byte, 1),
        };
        decoded.push(value);
        index += length;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, target: &str) -> Request {
        let request = http::Request::builder().method(method).uri(target).body(()).unwrap();
        Request::of(&request.into_parts().0)
    }

    #[test]
    fn paths_name_their_objects() {
        let place = |target| {
            let request = parse("GET", target);
            let plural = request.resource.map_or("", |resource| resource.plural);
            [plural, &request.namespace, &request.name, &request.subresource].map(str::to_owned)
        };
        assert_eq!(place("/api/v1/nodes/n1/status"), ["nodes", "", "n1", "status"]);
        assert_eq!(place("/api/v1/namespaces/default"), ["namespaces", "", "default", ""]);
        assert_eq!(place("/api/v1/namespaces/default/status"), ["namespaces", "", "default", "status"]);
        assert_eq!(place("/api/v1/namespaces/a/pods/b"), ["pods", "a", "b", ""]);
        let lease = place("/apis/coordination.k8s.io/v1/namespaces/a/leases/b");
        assert_eq!(lease, ["leases", "a", "b", ""]);
        assert_eq!(place("/api/v1/namespaces/a/nodes/b")[0], "", "nodes are in no namespace");
        assert_eq!(place("/apis/apps/v1/deployments")[0], "");
        let rotation = place("/apis/selvedge.dev/v1alpha1/keyrotations/n1/status");
        assert_eq!(rotation, ["keyrotations", "", "n1", "status"]);
        assert_eq!(place("/apis/selvedge.dev/v1/keyrotations")[0], "", "another version");
    }

    #[test]
    fn verbs_follow_method_and_target() {
        let verb = |method, target| parse(method, target).verb;
        assert_eq!(verb("GET", "/api/v1/pods"), "list");
        assert_eq!(verb("GET", "/api/v1/pods?watch=true"), "watch");
        assert_eq!(verb("DELETE", "/api/v1/nodes"), "deletecollection");
        assert_eq!(verb("DELETE", "/api/v1/nodes/a"), "delete");
        assert_eq!(verb("GET", "/version"), "get");
    }

    #[test]
    fn parameters_are_decoded() {
        let request = parse("GET", "/api/v1/pods?labelSelector=a+in+%28b%2Cc%29&limit=x&bad=%zz%C3%A4");
        assert_eq!(request.param("labelSelector"), "a in (b,c)");
        assert_eq!(request.param("bad"), "%zzä");
        assert_eq!(request.number("limit").unwrap_err().code, 400);
        assert_eq!(request.number("absent").unwrap(), None);
    }
}
