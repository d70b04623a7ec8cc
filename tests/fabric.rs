//! The whole fabric, from end to end: small clusters in namespaces, every check of the lab on them.

use std::path::PathBuf;

use selvedge_lab::checks::{self, Outcome, Scale};
use selvedge_lab::isolated;
use selvedge_lab::lab::{Lab, Options, logs};
use selvedge_lab::plan::Families;

fn lab(families: Families) -> Lab {
    let folder = PathBuf::from("/run/lab");
    std::fs::create_dir(&folder).unwrap();
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_selvedge"));
    let options = Options { nodes: 2, families, folder, binary };
    Lab::start(options, &mut |step| println!("{step}")).unwrap_or_else(|error| panic!("{error}"))
}

/// Every check passes, and nothing of it was to be seen on any link.
fn all_checks_pass(families: Families) {
    let lab = lab(families);
    let mut failed = Vec::new();
    let mut count = 0;
    let mut report = |outcome: &Outcome| {
        count += 1;
        println!("{} {}: {}", if outcome.passed { "pass" } else { "FAIL" }, outcome.name, outcome.measured);
        failed.extend((!outcome.passed).then(|| outcome.name.clone()));
    };
    checks::run(&lab, Scale::SMALL, &mut report);
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
