//! Replays the corpus of the fuzz target `packet`.

use super::coalesce::Coalescer;
use super::packet::destination;
use super::segment::Segments;
use super::unreachable::Unreachable;
use super::vnet::{LEN, VnetHeader};

#[path = "../../../fuzz/checks/packet.rs"]
mod check;

#[test]
fn the_corpus_holds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/packet");
    let mut inputs = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        check::check(&std::fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs > 0, "no inputs in {folder}");
}
