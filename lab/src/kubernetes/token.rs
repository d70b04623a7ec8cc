//! A new token for a pod that runs, put where its kubelet would put one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;

use super::Kubernetes;
use crate::error::{Doing as _, Error};
use crate::space::Space;

/// The shortest that the API server gives out.
const LIFETIME: &str = "--duration=10m";

/// A token, and where it goes.
pub struct Replacement {
    space: Arc<Space>,
    file: PathBuf,
    token: String,
    credential: String,
}

impl Kubernetes {
    /// Has a new token made for the pod `pod` on `node`, and puts it in place of the one that it has.
    pub fn replace_token(
        &self,
        node: &str,
        pod: &str,
        account: &str,
        namespace: &str,
    ) -> Result<Replacement, Error> {
        let what = format!("replace the token of pod {pod}");
        let (in_namespace, name) = (format!("--namespace={namespace}"), format!("--bound-object-name={pod}"));
        let uid = self.kubectl(&["get", "pod", &in_namespace, pod, "--output=jsonpath={.metadata.uid}"])?;
        let token = self.kubectl(&[
            "create",
            "token",
            account,
            &in_namespace,
            "--bound-object-kind=Pod",
            &name,
            LIFETIME,
        ])?;
        let token = token.trim().to_owned();
        let credential = credential(&token).ok_or_else(|| Error::new(&what, "the token has no id".into()))?;
        let space = self.node_space(node).cloned().ok_or_else(|| Error::new(&what, "no such node".into()))?;
        let file = space.run(|| token_file(&uid)).doing(&what)?.doing(&what)?;
        let replacement = Replacement { space, file, token, credential };
        replacement.put()?;
        Ok(replacement)
    }
}

impl Replacement {
    /// Puts it in its place, whole or not at all.
    pub fn put(&self) -> Result<(), Error> {
        let temporary = self.file.with_file_name("token.new");
        let put =
            || std::fs::write(&temporary, &self.token).and_then(|()| std::fs::rename(&temporary, &self.file));
        self.space.run(put).doing("enter a node")?.doing(format!("write {}", self.file.display()))
    }

    /// What the API server calls it.
    #[must_use]
    pub fn credential(&self) -> &str {
        &self.credential
    }
}

/// On the node: the file of the pod of that UID, behind the links that the kubelet changes.
fn token_file(uid: &str) -> std::io::Result<PathBuf> {
    let volumes = Path::new("/var/lib/kubelet/pods").join(uid).join("volumes/kubernetes.io~projected");
    let access = std::fs::read_dir(&volumes)?.flatten().map(|entry| entry.path().join("token"));
    let found = access.filter_map(|path| std::fs::canonicalize(path).ok()).next();
    found.ok_or_else(|| std::io::Error::other(format!("no token in {}", volumes.display())))
}

/// The id in the claims of a token (RFC 7519, `jti`), as the API server writes it into its audit log.
fn credential(token: &str) -> Option<String> {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    Some(format!("JTI={}", claims["jti"].as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_token_is_in_its_claims() {
        let token = format!("x.{}.y", BASE64_URL_SAFE_NO_PAD.encode(r#"{"jti":"a-b"}"#));
        assert_eq!(credential(&token).as_deref(), Some("JTI=a-b"));
        assert_eq!(credential("x"), None);
    }
}
