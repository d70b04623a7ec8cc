//! Processes of a node die, and stay dead for a while.

use std::time::Duration;

use selvedge_lab::isolated;
use selvedge_lab::process::wait_for;
use selvedge_lab::traffic::{Ping, PingReport};

use crate::stage::{SOON, Stage};

const MILLISECOND: Duration = Duration::from_millis(1);
/// Rounds of traffic while something is down.
const DOWN: u64 = 100;

/// Pings the far pod while `body` does something, until replies come again.
pub(crate) fn ping(stage: &Stage, body: impl FnOnce()) -> PingReport {
    let ping = Ping::start(&stage.near.ns, stage.far.addresses[0], MILLISECOND, stage.lab.canary()).unwrap();
    wait_for("the first replies", SOON, || ping.received() > 200).unwrap();
    body();
    let before = ping.received();
    wait_for("replies again", SOON, || ping.received() > before + 500)
        .unwrap_or_else(|why| panic!("{why}\n{}", stage.logs()));
    ping.stop()
}

pub(crate) fn gap(report: &PingReport) -> String {
    format!("longest gap {:?}, {} of {} pings lost", report.longest_gap, report.lost(), report.sent)
}

#[test]
fn processes_die() {
    isolated!(|| {
        let stage = Stage::start();
        let (one, two) = (stage.node(0), stage.node(1));
        stage.scenario("agents killed and down", || {
            let report = ping(&stage, || {
                one.agent.hold();
                two.agent.hold();
                stage.keeps_sending(DOWN);
            });
            assert_eq!(report.lost(), 0, "{report:?}");
            gap(&report)
        });
        stage.scenario("agents back", || {
            one.agent.resume();
            two.agent.resume();
            format!("answers after {:?}", stage.recovers("answers with the agents back"))
        });
        stage.scenario("tunnel's worker killed", || {
            let report = ping(&stage, || assert_eq!(one.tunnel.kill_children(), 1, "one worker"));
            assert!(report.longest_gap < Duration::from_secs(1), "{}\n{}", gap(&report), stage.logs());
            assert_eq!(one.tunnel.starts(), 1, "its parent stayed");
            gap(&report)
        });
        stage.scenario("tunnel's worker killed again and again", || {
            let report = ping(&stage, || {
                for _ in 0..5 {
                    wait_for("a worker", SOON, || one.tunnel.kill_children() == 1).unwrap();
                    stage.keeps_sending(10);
                }
            });
            gap(&report)
        });
        stage.scenario("tunnel's parent killed", || {
            let report = ping(&stage, || assert!(one.tunnel.kill()));
            assert_eq!(one.tunnel.starts(), 2);
            gap(&report)
        });
        stage.scenario("tunnel killed and down", || {
            one.tunnel.hold();
            stage.keeps_sending(DOWN);
            String::new()
        });
        stage.scenario("tunnel and agent killed and down", || {
            one.hold();
            stage.keeps_sending(DOWN);
            String::new()
        });
        stage.scenario("all processes of all nodes killed and down", || {
            two.hold();
            stage.keeps_sending(DOWN);
            String::new()
        });
        stage.scenario("tunnels back, agents down", || {
            one.tunnel.resume();
            two.tunnel.resume();
            format!("answers after {:?}", stage.recovers("answers with the tunnels back"))
        });
        stage.scenario("all processes back", || {
            one.resume();
            two.resume();
            format!("answers after {:?}", stage.recovers("answers with everything back"))
        });
        stage.end();
    });
}
