//! Agents that stay away. Its name puts this file first among the tests: it lasts, and others run beside it.

use std::time::Duration;

use selvedge_lab::isolated;

use crate::processes::{gap, ping};
use crate::stage::Stage;

/// Longer than any session lives (`REJECT_AFTER_TIME`, 180 s): whatever is still answered then goes by a session that the
/// tunnels have renewed by themselves.
const LONG: Duration = Duration::from_secs(200);

#[test]
fn agents_are_down_for_200_seconds() {
    isolated!(|| {
        let stage = Stage::quiet(2);
        let report = ping(&stage, || {
            stage.lab.nodes().iter().for_each(|node| node.agent.hold());
            std::thread::sleep(LONG);
        });
        println!("agents killed and down for {LONG:?}: {}", gap(&report));
        assert_eq!((report.lost(), report.duplicates), (0, 0), "{report:?}\n{}", stage.logs());
        assert!(report.sent > 100_000, "{report:?}");
        stage.end();
    });
}
