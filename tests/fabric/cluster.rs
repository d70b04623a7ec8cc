//! A cluster for a test.

use std::path::PathBuf;

use selvedge_lab::lab::{Lab, Options};
use selvedge_lab::plan::{Datapath, Families};

/// A lab in the namespaces of the test, ready for pods.
pub(crate) fn lab(families: Families, nodes: usize) -> Lab {
    lab_with(families, nodes, Datapath::Bridge)
}

/// The same with a wiring of choice.
pub(crate) fn lab_with(families: Families, nodes: usize, datapath: Datapath) -> Lab {
    let folder = PathBuf::from("/run/lab");
    std::fs::create_dir(&folder).unwrap();
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_selvedge"));
    let options = Options { nodes, families, datapath, folder, binary };
    Lab::start(options, &mut |step| println!("{step}")).unwrap_or_else(|error| panic!("{error}"))
}

/// Nothing of the cluster was on any link since the lab was started, and the captures would have seen it.
pub(crate) fn nothing_leaked(lab: &Lab) {
    lab.plant().unwrap();
    for seen in lab.capture().seen().unwrap() {
        assert_eq!((seen.leaks, seen.drops), (0, 0), "{}: {:?}", seen.link, seen.examples);
        assert!(seen.found == seen.planted && seen.planted > 0, "{seen:?}");
    }
}
