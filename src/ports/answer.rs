//! What is answered at the ports, as kube-proxy answers (behaviour of Kubernetes 1.37). Pure.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::FRESH;
use super::wanted::{Check, Proxy, Wanted};

/// The port of `/healthz` and `/livez`, on all addresses.
pub const HEALTHZ_PORT: u16 = 10_256;
/// The port of `/proxyMode`, on loopback.
pub const MODE_PORT: u16 = 10_249;

/// The header `Server` of every answer. kube-proxy sends none.
pub const SERVER: &str = "selvedge";

/// The answer at a port to a request for a path.
#[must_use]
pub fn answer(wanted: &Wanted, port: u16, path: &str, now: Timestamp) -> Response<Full<Bytes>> {
    match (port, path, &wanted.proxy, wanted.checks.get(&port)) {
        (_, _, Some(proxy), Some(check)) => health(check, is_fresh(proxy, now)),
        (HEALTHZ_PORT, "/healthz", Some(proxy), None) => state(proxy, now, true),
        (HEALTHZ_PORT, "/livez", Some(proxy), None) => state(proxy, now, false),
        (MODE_PORT, "/proxyMode", Some(_), None) => text(StatusCode::OK, "nftables"),
        (MODE_PORT, "/healthz", Some(_), None) => text(StatusCode::OK, "ok"),
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// Not of the future either, but by little: clocks are set.
fn is_fresh(proxy: &Proxy, now: Timestamp) -> bool {
    now.duration_since(proxy.updated).abs().unsigned_abs() <= FRESH
}

fn health(check: &Check, is_fresh: bool) -> Response<Full<Bytes>> {
    let well = is_fresh && check.local_endpoints > 0;
    let body = json!({
        "service": {"namespace": check.namespace, "name": check.name},
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": is_fresh,
    });
    let mut response = object(well, &body);
    response.headers_mut().insert("x-load-balancing-endpoint-weight", check.local_endpoints.into());
    response
}

fn state(proxy: &Proxy, now: Timestamp, asks_for_traffic: bool) -> Response<Full<Bytes>> {
    let is_fresh = is_fresh(proxy, now);
    let updated = if is_fresh { now } else { proxy.updated };
    let mut body = json!({"lastUpdated": updated.to_string(), "currentTime": now.to_string()});
    if asks_for_traffic {
        body["nodeEligible"] = proxy.is_eligible.into();
    }
    object(is_fresh && (proxy.is_eligible || !asks_for_traffic), &body)
}

fn object(well: bool, body: &Value) -> Response<Full<Bytes>> {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    with_type(status, "application/json", body.to_string())
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body.to_owned())
}

fn with_type(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static(SERVER));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    const PORT: u16 = 30_001;

    fn wanted(local_endpoints: usize, is_eligible: bool) -> Wanted {
        let check = Check { namespace: "a".into(), name: "web".into(), local_endpoints };
        let proxy = Some(Proxy { updated: now(0), is_eligible });
        Wanted { proxy, checks: [(PORT, check)].into(), ..Wanted::default() }
    }

    fn now(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn body(response: Response<Full<Bytes>>) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(response.into_body().collect()).unwrap().to_bytes();
        String::from_utf8_lossy(&body).into_owned()
    }

    #[test]
    fn a_service_is_well_where_it_has_endpoints_and_the_agent_is_heard() {
        let status = |endpoints, seconds| {
            let answer = answer(&wanted(endpoints, true), PORT, "/anything", now(seconds));
            (answer.status().as_u16(), body(answer))
        };
        assert_eq!(
            status(2, 60),
            (
                200,
                r#"{"localEndpoints":2,"service":{"name":"web","namespace":"a"},"serviceProxyHealthy":true}"#
                    .into()
            )
        );
        assert_eq!(status(0, 60).0, 503);
        assert_eq!(status(2, 61).0, 503);
        let answer = answer(&wanted(2, true), PORT, "/", now(0));
        assert_eq!(answer.headers()["x-load-balancing-endpoint-weight"], "2");
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    }

    #[test]
    fn a_node_that_is_about_to_go_gets_no_traffic_but_lives() {
        let ask = |path, is_eligible, seconds| {
            let answer = answer(&wanted(1, is_eligible), HEALTHZ_PORT, path, now(seconds));
            (answer.status().as_u16(), body(answer))
        };
        let times = r#""currentTime":"2023-11-14T22:14:20Z","lastUpdated":"2023-11-14T22:14:20Z""#;
        assert_eq!(ask("/healthz", true, 60), (200, format!(r#"{{{times},"nodeEligible":true}}"#)));
        assert_eq!(ask("/healthz", false, 60), (503, format!(r#"{{{times},"nodeEligible":false}}"#)));
        assert_eq!(ask("/livez", false, 60), (200, format!("{{{times}}}")));
        let (status, text) = ask("/livez", true, 61);
        assert!(status == 503 && text.contains(r#""lastUpdated":"2023-11-14T22:13:20Z""#), "{text}");
        assert_eq!(ask("/else", true, 0).0, 404);
    }

    #[test]
    fn without_an_agent_that_serves_there_is_nothing() {
        let nothing = Wanted { proxy: None, ..wanted(1, true) };
        for port in [PORT, HEALTHZ_PORT, MODE_PORT] {
            assert_eq!(answer(&nothing, port, "/healthz", now(0)).status(), 404);
        }
        let mode = answer(&wanted(1, true), MODE_PORT, "/proxyMode", now(0));
        assert_eq!(body(mode), "nftables");
    }
}
