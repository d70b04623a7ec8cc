//! The `selvedge-lab` program.
fn main() {}
