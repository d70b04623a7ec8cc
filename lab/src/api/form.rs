//! The forms in which objects are answered: whole, metadata alone, or as a table.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::META_VERSION as META;
use super::resource::Resource;
use super::stored::Object;
use super::{event, table};

/// What the client's `Accept` asks for; the first of its media types that the server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The objects themselves.
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
    /// `Table`, with in each row the `PartialObjectMetadata`, or the whole object.
    Table { whole: bool },
}

impl Form {
    pub(super) fn of(accept: &str, include: &str) -> Self {
        let forms = accept.split(',').filter_map(|media| {
            let has = |wanted: &str| media.split(';').any(|part| part.trim() == wanted);
            match () {
                () if !has("application/json") && !has("*/*") => None,
                () if has("g=meta.k8s.io") && !has("v=v1") => None,
                () if has("as=Table") => Some(Self::Table { whole: include == "Object" }),
                () if has("as=PartialObjectMetadata") || has("as=PartialObjectMetadataList") => {
                    Some(Self::Metadata)
                }
                () => Some(Self::Whole),
            }
        });
        forms.into_iter().next().unwrap_or(Self::Whole)
    }

    /// One object.
    pub(super) fn object(self, resource: &Resource, object: &Arc<Object>) -> Bytes {
        match self {
            Self::Whole if event::is_shown_as_stored(resource) => object.text().clone(),
            Self::Whole => event::shown(resource, object).to_string().into(),
            Self::Metadata => object.metadata_text().clone(),
            Self::Table { .. } => {
                let version = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                self.table(resource, std::slice::from_ref(object), &version).to_string().into()
            }
        }
    }

    /// A list with its metadata, in pieces.
    pub(super) fn list(
        self,
        resource: &'static Resource,
        objects: Vec<Arc<Object>>,
        meta: &Value,
    ) -> Box<dyn Iterator<Item = Bytes> + Send> {
        let (kind, version) = match self {
            Self::Whole => (format!("{}List", resource.kind), resource.api_version()),
            Self::Metadata => ("PartialObjectMetadataList".to_owned(), META.to_owned()),
            Self::Table { .. } => {
                let table = self.table(resource, &objects, meta).to_string();
                return Box::new(std::iter::once(table.into()));
            }
        };
        let head = format!(r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{meta},"items":["#);
        let items = objects.into_iter().enumerate().flat_map(move |(index, object)| {
            let comma = if index == 0 { "" } else { "," };
            [Bytes::from_static(comma.as_bytes()), self.object(resource, &object)]
        });
        Box::new(std::iter::once(head.into()).chain(items).chain([Bytes::from_static(b"]}")]))
    }

    /// The object of a bookmark: nothing but a version.
    pub(super) fn bookmark(self, resource: &Resource, version: u64, ends_initial_events: bool) -> Value {
        let mut meta = json!({ "resourceVersion": version.to_string() });
        if ends_initial_events {
            meta["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        match self {
            Self::Whole => {
                json!({ "kind": resource.kind, "apiVersion": resource.api_version(), "metadata": meta })
            }
            Self::Metadata => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": META, "metadata": meta })
            }
            Self::Table { .. } => self.table(resource, &[], &meta),
        }
    }

    fn table(self, resource: &Resource, objects: &[Arc<Object>], meta: &Value) -> Value {
        let now = Timestamp::now();
        let row = |object: &Arc<Object>| {
            let shown = match self {
                Self::Table { whole: true } => event::shown(resource, object),
                _ => metadata(object),
            };
            json!({ "cells": table::cells(resource, object, now), "object": shown })
        };
        let rows: Vec<_> = objects.iter().map(row).collect();
        let columns = table::columns(resource);
        json!({ "kind": "Table", "apiVersion": META, "metadata": meta, "columnDefinitions": columns, "rows": rows })
    }
}

fn metadata(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": META, "metadata": object["metadata"] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_media_type_that_is_known_counts() {
        let of = |accept| Form::of(accept, "");
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(of(table), Form::Table { whole: false });
        assert_eq!(Form::of(table, "Object"), Form::Table { whole: true });
        assert_eq!(of("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"), Form::Metadata);
        assert_eq!(of("application/json, application/json;as=Table;v=v1;g=meta.k8s.io"), Form::Whole);
        assert_eq!(of("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,*/*"), Form::Whole);
        assert_eq!(of("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"), Form::Whole);
        assert_eq!(of(""), Form::Whole);
    }
}
