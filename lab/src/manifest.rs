//! Objects from files: YAML with several documents, or JSON.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::api::Resource;
use crate::api::resource::ALL;

/// What is wrong with a manifest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no YAML.
    #[error("{path}: {why}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        why: String,
    },
    /// A kind that the lab's API server does not have.
    #[error("the lab has no {kind} of {version}; it has {}", known())]
    Unknown {
        /// `kind`.
        kind: String,
        /// `apiVersion`.
        version: String,
    },
}

/// The objects of a file; lists are taken apart.
pub fn load(path: &Path) -> Result<Vec<Value>, Error> {
    let text =
        std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let wrong = |why: String| Error::Parse { path: path.to_owned(), why };
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).map_err(|error| wrong(error.to_string()))?;
    let mut objects = Vec::new();
    for mut document in documents {
        match document["items"].take() {
            Value::Array(items) => objects.extend(items),
            _ if document.is_null() => {}
            _ => objects.push(document),
        }
    }
    objects.iter().try_for_each(|object| resource(object).map(drop))?;
    Ok(objects)
}

/// The resource that an object is of.
pub fn resource(object: &Value) -> Result<&'static Resource, Error> {
    let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
    let (kind, version) = (text("kind"), text("apiVersion"));
    let found = ALL.iter().copied().find(|known| known.kind == kind && known.api_version() == version);
    found.ok_or(Error::Unknown { kind, version })
}

fn known() -> String {
    ALL.iter().map(|known| known.kind).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Value>, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        load(file.path())
    }

    #[test]
    fn documents_and_lists_become_objects() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: List\nitems:\n\
                    - {apiVersion: v1, kind: Pod, metadata: {name: b}}\n- {apiVersion: v1, kind: Service, metadata: {name: c}}\n";
        let names: Vec<_> =
            parse(text).unwrap().iter().map(|object| object["metadata"]["name"].clone()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(
            parse(r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "j"}}"#).unwrap().len(),
            1
        );
    }

    #[test]
    fn what_the_lab_does_not_have_is_named() {
        let error = parse("apiVersion: apps/v1\nkind: Deployment\n").unwrap_err().to_string();
        assert!(error.contains("no Deployment of apps/v1") && error.contains("Pod"), "{error}");
        assert!(matches!(parse("a: [1"), Err(Error::Parse { .. })));
    }
}
