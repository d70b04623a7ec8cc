//! Events about what Services do not get.

use std::net::TcpListener;

use selvedge_lab::api::resource::EVENTS;

use super::*;

impl Cluster {
    /// The Events about a Service, by reason: their notes, and who has written them.
    fn events(&self, service: &str) -> Vec<(String, String, String)> {
        let (_, events) = self.lab.store().list(&EVENTS, None);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let of_service = events.iter().filter(|event| {
            event["involvedObject"]["kind"] == "Service" && event["involvedObject"]["name"] == service
        });
        of_service
            .map(|event| {
                let node = text(&event["reportingInstance"]);
                (text(&event["reason"]), text(&event["message"]), node)
            })
            .collect()
    }

    /// Who has tried to write an Event in the namespace `default`, with the answer's code.
    fn attempts(&self) -> Vec<(String, u16)> {
        let requests = self.lab.api().requests();
        let of_events = requests.iter().filter(|it| {
            it.request.verb == "create"
                && it.request.resource.is_some_and(|resource| resource.plural == "events")
                && it.request.namespace == "default"
        });
        of_events.map(|it| (it.request.user.clone(), it.code)).collect()
    }
}

/// All three agents see the same, and two of them write.
#[test]
fn one_event_says_what_a_service_does_not_get() {
    isolated!(|| {
        let cluster = Cluster::start(Datapath::Bridge);
        let Cluster { lab, near, beside, hosts, .. } = &cluster;
        let before = cluster.attempts().len();
        let attempts = || cluster.attempts().split_off(before);
        let node = Family::V4.pick(&lab.nodes()[1].addresses()).unwrap();
        let ports = json!([{"name": "tcp", "protocol": "TCP", "port": 10_250}]);
        let spec = json!({"ports": ports, "externalIPs": [node], "type": "ClusterIP"});
        cluster.service(1, &spec, &[(beside, "node1")]);
        let reasons = |service: &str| {
            cluster.events(service).into_iter().map(|(reason, _, _)| reason).collect::<Vec<_>>()
        };
        wait_for("the Event", SOON, || reasons("service1") == ["AddressWithheld"]).unwrap();
        wait_for("the other writer", SOON, || attempts().len() >= 2).unwrap();
        let mut codes: Vec<u16> = attempts().iter().map(|(_, code)| *code).collect();
        codes.sort_unstable();
        assert_eq!(codes, [201, 409], "{:?}", attempts());
        let note = format!("no Service gets {node}:10250/TCP (a port of the nodes themselves)");
        assert_eq!(cluster.events("service1")[0].1, note);

        // Another address that two want.
        let external = json!({"externalIPs": ["198.51.100.77"]});
        cluster.service(2, &external, &[(beside, "node1")]);
        cluster.service(3, &external, &[(near, "node1")]);
        wait_for("the Event", SOON, || reasons("service3") == ["AddressTaken"]).unwrap();
        assert_eq!(reasons("service2"), Vec::<String>::new());

        // A port that a program of node1 has.
        let taken = hosts[0].run(|| TcpListener::bind("0.0.0.0:31002")).unwrap().unwrap();
        let spec =
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31_002});
        cluster.service(4, &spec, &[(beside, "node1")]);
        wait_for("the Event", SOON, || reasons("service4") == ["HealthCheckPortNotHeld"]).unwrap();
        let (_, note, node) = cluster.events("service4").remove(0);
        assert!(note.contains("health check port 31002") && node == "node1", "{node}: {note}");
        drop(taken);
        // Two writers for each of the first two, one for the last; nothing is written repeatedly.
        wait_for("all writers", SOON, || attempts().len() >= 5).unwrap();
        assert_eq!(cluster.events("service1").len(), 1);
        assert_eq!(attempts().len(), 5, "{:?}", attempts());
    });
}
