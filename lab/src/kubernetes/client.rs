//! The lab's own client of the API server, as an administrator: every call blocks.

use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Handle;

use crate::error::{Doing as _, Error};

const TIMEOUT: Duration = Duration::from_secs(20);

pub(super) struct Client {
    client: kube::Client,
    runtime: Handle,
}

/// A list of objects.
#[derive(serde::Deserialize)]
struct List<T> {
    items: Vec<T>,
}

impl Client {
    pub(super) fn connect(runtime: &tokio::runtime::Runtime, kubeconfig: &str) -> Result<Self, Error> {
        let what = "make a Kubernetes client";
        let read: Kubeconfig = serde_saphyr::from_str(kubeconfig).doing(what)?;
        let made = runtime.block_on(async {
            let mut config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .doing(what)?;
            config.read_timeout = Some(TIMEOUT);
            config.connect_timeout = Some(TIMEOUT);
            kube::Client::try_from(config).doing(what)
        });
        Ok(Self { client: made?, runtime: runtime.handle().clone() })
    }

    pub(super) fn is_ready(&self) -> bool {
        let request = http::Request::get("/readyz").body(Vec::new());
        let answer = request.map(|request| self.runtime.block_on(self.client.request_text(request)));
        answer.is_ok_and(|text| text.is_ok_and(|text| text == "ok"))
    }

    /// The object at a path of the API, such as `/api/v1/nodes/a`.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.request(http::Method::GET, path, None)
    }

    /// The object, if there is one.
    pub(super) fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Error> {
        match self.call(http::Method::GET, path, None) {
            Ok(found) => Ok(Some(found)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(Error::new(format!("GET {path}"), error.to_string())),
        }
    }

    pub(super) fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Error> {
        self.get::<List<T>>(path).map(|list| list.items)
    }

    /// Creates an object in the collection at a path.
    pub(super) fn create(&self, path: &str, object: &Value) -> Result<(), Error> {
        self.request::<Value>(http::Method::POST, path, Some(object)).map(drop)
    }

    pub(super) fn delete(&self, path: &str) -> Result<(), Error> {
        self.request::<Value>(http::Method::DELETE, path, None).map(drop)
    }

    fn request<T: DeserializeOwned>(
        &self,
        method: http::Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Error> {
        let what = format!("{method} {path}");
        self.call(method, path, body).doing(what)
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: http::Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, kube::Error> {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = http::Request::builder().method(method).uri(path);
        let request = request.header(http::header::CONTENT_TYPE, "application/json").body(body);
        let request = request.map_err(kube::Error::HttpError)?;
        self.runtime.block_on(self.client.request(request))
    }
}
