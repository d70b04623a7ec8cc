//! Annotations of a foreign Node: one `name=value` a line, the name without its prefix.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use selvedge::mesh::annotation::{PREFIX, parse, render};

fuzz_target!(|text: &str| {
    let entry =
        |line: &str| line.split_once('=').map(|(name, value)| (format!("{PREFIX}{name}"), value.into()));
    let texts: BTreeMap<String, String> = text.lines().filter_map(entry).collect();
    match parse(&texts) {
        Ok(None) => {}
        Ok(Some(node)) => assert_eq!(parse(&render(&node)), Ok(Some(node))),
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                let error = error.to_string();
                assert!(error.len() < 200 && !error.contains(|c: char| c.is_control()), "{error}");
            }
        }
    }
});
