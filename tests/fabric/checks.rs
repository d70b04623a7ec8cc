//! Every check of the lab, in small clusters of each kind.

use selvedge_lab::checks::{self, Outcome, Report, Scale};
use selvedge_lab::isolated;
use selvedge_lab::lab::logs;
use selvedge_lab::plan::Families;

use crate::cluster::lab;

/// Every check passes, and nothing of it was to be seen on any link.
fn all_checks_pass(families: Families) {
    let lab = lab(families, 2);
    let mut failed = Vec::new();
    let mut count = 0;
    let mut report = |outcome: &Outcome| {
        count += 1;
        println!("{} {}: {}", if outcome.passed { "pass" } else { "FAIL" }, outcome.name, outcome.measured);
        failed.extend((!outcome.passed).then(|| outcome.name.clone()));
    };
    checks::run(&lab, Scale::SMALL, &mut |each| match each {
        Report::Begun(_) => {}
        Report::Ended(outcome) => report(outcome),
    });
    checks::leaks(&lab).iter().for_each(&mut report);
    if !failed.is_empty() {
        lab.nodes().iter().for_each(|node| println!("{}", logs(node)));
    }
    assert_eq!(failed, Vec::<String>::new());
    assert!(count > 15, "only {count} checks were made");
}

#[test]
fn both_families() {
    isolated!(|| all_checks_pass(Families::Dual));
}

#[test]
fn ipv4_alone() {
    isolated!(|| all_checks_pass(Families::Ipv4));
}

#[test]
fn ipv6_alone() {
    isolated!(|| all_checks_pass(Families::Ipv6));
}
