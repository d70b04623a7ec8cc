//! The verbs on objects.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::access::User;
use super::answer::{Answer, Body, json, pieces, respond, stream};
use super::call::Request;
use super::failure::Failure;
use super::patch::Patch;
use super::resource::{NAMESPACES, PODS, Resource};
use super::state::{Review, State};
use super::store::{Deletion, Removed};
use super::stored::Object;
use super::stream::{self, View};
use super::{event, object};

/// Seconds that a pod gets to terminate unless it says otherwise.
const POD_GRACE: u64 = 30;

/// One request about objects.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) state: &'a Arc<State>,
    pub(super) user: &'a User,
    pub(super) request: &'a Request,
    pub(super) resource: &'static Resource,
}

impl Call<'_> {
    pub(super) fn answer(self, body: &[u8]) -> Answer {
        self.check_subresource()?;
        let media = self.request.content_type.as_str();
        if !body.is_empty() && !media.is_empty() && !media.contains("json") && !media.contains("yaml") {
            let message = format!("the body is {media}, this server reads JSON alone (kubectl: create -f)");
            return Err(Failure::new(415, "UnsupportedMediaType", message));
        }
        if !self.request.param("dryRun").is_empty() {
            return Err(Failure::bad_request("this server has no dry run"));
        }
        match self.request.verb {
            "get" => {
                let Request { namespace, name, .. } = self.request;
                Ok(self.one(200, &self.state.store.get(self.resource, namespace, name)?))
            }
            "list" => self.list(),
            "watch" => {
                let body = stream::start(self.state, self.resource, self.request)?;
                Ok(stream(200, "application/json", body))
            }
            "create" if self.request.subresource == "binding" => self.bind(&parse(body)?),
            "create" if self.request.subresource == "eviction" => self.delete(&json!({})),
            "create" => self.create(parse(body)?),
            "update" => self.update(&parse(body)?),
            "patch" => self.patch(&parse(body)?),
            "delete" => self.delete(&parse_or_empty(body)?),
            "deletecollection" => self.delete_collection(&parse_or_empty(body)?),
            _ => Err(Failure::new(405, "MethodNotAllowed", "the method is not allowed")),
        }
    }

    fn check_subresource(self) -> Result<(), Failure> {
        let Request { verb, subresource, name, .. } = self.request;
        let named = !name.is_empty();
        match (subresource.as_str(), *verb) {
            ("", "create") if named => Err(Failure::new(405, "MethodNotAllowed", "create takes no name")),
            ("", "update" | "patch") if !named => {
                Err(Failure::new(405, "MethodNotAllowed", "the verb needs a name"))
            }
            ("", _) => Ok(()),
            ("status", "get" | "update" | "patch") if self.resource.status => Ok(()),
            ("binding" | "eviction", "create") if self.resource == &PODS => Ok(()),
            _ => Err(Failure::no_such_path()),
        }
    }

    fn one(self, code: u16, object: &Arc<Object>) -> http::Response<Body> {
        respond(code, "application/json", self.request.form().object(self.resource, object))
    }

    /// All pages of a list show it as it was for the first one, for as long as the history reaches back so far.
    fn list(self) -> Answer {
        let view = View::of(self.resource, self.request)?;
        let limit = self.request.number("limit")?.filter(|&limit| limit > 0);
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let (version, mut objects) = self.listed()?;
        objects.retain(|object| view.sees(object));
        let mut meta = json!({ "resourceVersion": version.to_string() });
        let left = objects.len().saturating_sub(limit);
        objects.truncate(limit);
        if let Some(last) = objects.last().filter(|_| left > 0) {
            meta["continue"] = write_token(version, object::place(last)).into();
            meta["remainingItemCount"] = left.into();
        }
        Ok(pieces(200, self.request.form().list(self.resource, objects, &meta)))
    }

    /// The version that the request asks for, and from where on it asks for its objects.
    fn listed(self) -> Result<(u64, Vec<Arc<Object>>), Failure> {
        let (store, within) = (&self.state.store, self.request.within());
        let at = |version| {
            let objects = store.list_at(self.resource, within, version);
            objects.map(|objects| (version, objects)).map_err(|_| Failure::expired(version))
        };
        let token = self.request.param("continue");
        if !token.is_empty() {
            let (version, (namespace, name)) = read_token(&token)?;
            let (_, mut objects) = at(version)?;
            objects.retain(|object| object::place(object) > (namespace.as_str(), name.as_str()));
            return Ok((version, objects));
        }
        let wanted = self.request.number("resourceVersion")?.unwrap_or(0);
        if wanted > store.version() {
            return Err(Failure::new(504, "Timeout", format!("Too large resource version: {wanted}")));
        }
        match self.request.param("resourceVersionMatch").as_str() {
            "Exact" => at(wanted),
            _ => Ok(store.list(self.resource, within)),
        }
    }

    fn create(self, shown: Value) -> Answer {
        let object = self.prepare(shown)?;
        let object = self.state.store.create(self.resource.stored(), object)?;
        Ok(self.one(201, &object))
    }

    /// A new object as it is stored, from one as the client shows it.
    fn prepare(self, mut shown: Value) -> Result<Value, Failure> {
        object::check(self.resource, &mut shown)?;
        if !object::meta(&shown, "resourceVersion").is_empty() {
            return Err(Failure::bad_request("resourceVersion should not be set on objects to be created"));
        }
        self.place(&mut shown)?;
        if self.resource.plural == "events" {
            event::check(self.resource, &shown)?;
        }
        let mut object = event::stored(self.resource, shown);
        if self.resource == &PODS {
            object["status"] = json!({ "phase": "Pending" });
        } else if self.resource == &NAMESPACES {
            let name = object["metadata"]["name"].clone();
            object["status"] = json!({ "phase": "Active" });
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
        }
        self.admit(None, &mut object)?;
        Ok(object)
    }

    /// Takes the namespace from the path.
    fn place(self, object: &mut Value) -> Result<(), Failure> {
        let namespace = &self.request.namespace;
        let own = object::meta(object, "namespace");
        if self.resource.namespaced && !own.is_empty() && own != namespace {
            let message =
                format!("the namespace of the object ({own}) is not that of the request ({namespace})");
            return Err(Failure::bad_request(message));
        }
        if self.resource.namespaced {
            object::meta_mut(object).insert("namespace".to_owned(), namespace.as_str().into());
        }
        Ok(())
    }

    fn admit(self, before: Option<&Value>, object: &mut Value) -> Result<(), Failure> {
        let Some(admission) = &self.state.options.admission else { return Ok(()) };
        let subresource = &self.request.subresource;
        admission(&Review { user: self.user, resource: self.resource, subresource, before }, object)
    }

    fn update(self, shown: &Value) -> Answer {
        self.modify(|_| Ok(shown.clone()))
    }

    fn patch(self, body: &Value) -> Answer {
        let patch = Patch::of(&self.request.content_type)?;
        let Request { namespace, name, .. } = self.request;
        if patch == Patch::Apply && self.state.store.get(self.resource, namespace, name).is_err() {
            let mut object = patch.apply(&json!({}), body)?;
            object::check(self.resource, &mut object)?;
            object::meta_mut(&mut object).insert("name".to_owned(), name.as_str().into());
            return self.create(object);
        }
        self.modify(|shown| patch.apply(shown, body))
    }

    /// Changes the object, or only its status, as the client sees it.
    fn modify(self, change: impl FnOnce(&Value) -> Result<Value, Failure>) -> Answer {
        let Request { namespace, name, subresource, .. } = self.request;
        let store = &self.state.store;
        let object = store.modify(self.resource.stored(), namespace, name, |before| {
            let mut shown = change(&event::shown(self.resource, before))?;
            object::check(self.resource, &mut shown)?;
            let mut after = event::stored(self.resource, shown);
            confine(self.resource, subresource, before, &mut after);
            self.admit(Some(before), &mut after)?;
            Ok(after)
        })?;
        Ok(self.one(200, &object))
    }

    fn bind(self, binding: &Value) -> Answer {
        let Request { namespace, name, .. } = self.request;
        let node = &binding["target"]["name"];
        self.state.store.modify(self.resource, namespace, name, |before| {
            if !object::field(before, "spec.nodeName").is_empty() {
                return Err(Failure::conflict(self.resource, name, "pod is already assigned to a node"));
            }
            let mut after = before.clone();
            after["spec"]["nodeName"] = node.clone();
            self.admit(Some(before), &mut after)?;
            Ok(after)
        })?;
        Ok(json(201, &success(self.resource, None)))
    }

    fn delete(self, options: &Value) -> Answer {
        let Request { namespace, name, .. } = self.request;
        let object = self.state.store.get(self.resource, namespace, name)?;
        Ok(match self.remove(&object, options)? {
            Removed::Gone(object) => json(200, &success(self.resource, Some(&object))),
            Removed::Marked(object) => self.one(200, &object),
        })
    }

    fn delete_collection(self, options: &Value) -> Answer {
        let view = View::of(self.resource, self.request)?;
        let (_, objects) = self.state.store.list(self.resource, self.request.within());
        for object in objects.iter().filter(|object| view.sees(object)) {
            match self.remove(object, options) {
                Err(failure) if failure.code != 404 => return Err(failure),
                _ => {}
            }
        }
        Ok(json(200, &success(self.resource, None)))
    }

    fn remove(self, object: &Value, options: &Value) -> Result<Removed, Failure> {
        let wanted = |field: &str| options["preconditions"][field].as_str().map(str::to_owned);
        let how = Deletion {
            uid: wanted("uid"),
            resource_version: wanted("resourceVersion"),
            grace: self.grace(object, options)?,
        };
        let (namespace, name) = (object::meta(object, "namespace"), object::meta(object, "name"));
        self.state.store.delete(self.resource, namespace, name, &how)
    }

    fn grace(self, pod: &Value, options: &Value) -> Result<u64, Failure> {
        let runs = !object::field(pod, "spec.nodeName").is_empty();
        if self.resource != &PODS || !self.state.options.graceful_pods || !runs {
            return Ok(0);
        }
        let asked = options["gracePeriodSeconds"].as_u64().or(self.request.number("gracePeriodSeconds")?);
        let own = pod["spec"]["terminationGracePeriodSeconds"].as_u64();
        Ok(asked.or(own).unwrap_or(POD_GRACE))
    }
}

/// A write to the object leaves its status alone, and one to the status all but that and the metadata.
fn confine(resource: &Resource, subresource: &str, before: &Value, after: &mut Value) {
    let (mut base, from, fields) = match subresource {
        "status" => (before.clone(), after.take(), ["status", "metadata"].as_slice()),
        _ if resource.status => (after.take(), before.clone(), ["status"].as_slice()),
        _ => return,
    };
    for &field in fields {
        match (from.get(field), base.as_object_mut()) {
            (Some(value), Some(base)) => drop(base.insert(field.to_owned(), value.clone())),
            (None, Some(base)) => drop(base.remove(field)),
            (_, None) => {}
        }
    }
    *after = base;
}

fn success(resource: &Resource, object: Option<&Value>) -> Value {
    let mut details = json!({ "kind": resource.plural, "group": resource.group });
    if let Some(object) = object {
        details["name"] = object["metadata"]["name"].clone();
        details["uid"] = object["metadata"]["uid"].clone();
    }
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details })
}

fn parse(body: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("the body is not JSON: {error}")))
}

fn parse_or_empty(body: &[u8]) -> Result<Value, Failure> {
    if body.is_empty() { Ok(Value::Null) } else { parse(body) }
}

fn write_token(version: u64, last: (&str, &str)) -> String {
    URL_SAFE_NO_PAD.encode(json!([version, last.0, last.1]).to_string())
}

fn read_token(token: &str) -> Result<(u64, (String, String)), Failure> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let parts = bytes.and_then(|bytes| serde_json::from_slice::<(u64, String, String)>(&bytes).ok());
    let parts = parts.map(|(version, namespace, name)| (version, (namespace, name)));
    parts.ok_or_else(|| Failure::bad_request("continue key is not valid"))
}
