//! Changes made by somebody else.

use super::*;

/// What somebody does to the lines.
type Change = Box<dyn Fn(&mut FileLines)>;

/// Whether verification reports anything at all.
fn is_found(dir: &Path, anchor: Option<&Head>) -> bool {
    verify(dir, anchor).map_or(true, |verified| verified.torn_tail)
}

#[test]
fn every_changed_byte_is_found() {
    let (_folder, log) = log_of(&some(5), Limits { segment: 420, segments: 9 });
    let (dir, head) = (log.reader().dir(), log.head());
    let good = files(dir);
    assert_eq!(good.len(), 3);
    let last = split(&good).last().unwrap().1.len();
    let (mut tried, mut without) = (0, 0);
    for file in 0..good.len() {
        for position in 0..good[file].len() {
            for flip in [0x01, 0x20, 0x80] {
                let mut bad = good.clone();
                bad[file][position] ^= flip;
                put(dir, &bad);
                assert!(verify(dir, Some(&head)).is_err(), "file {file}, byte {position}, with the anchor");
                let in_last = file == 2 && position >= good[2].len() - last;
                let found = is_found(dir, None);
                assert!(found || in_last, "file {file}, byte {position}, without an anchor");
                (tried, without) = (tried + 1, without + usize::from(found));
            }
        }
    }
    println!("{tried} changes: all found with the anchor, {without} without, the rest in the last line");
}

#[test]
fn errors_name_file_line_and_fault() {
    let (_folder, log) = log_of(&some(6), Limits { segment: 420, segments: 9 });
    let (dir, head) = (log.reader().dir().to_owned(), log.head());
    let good = files(&dir);
    let lines = split(&good);
    let expect = |change: &dyn Fn(&mut FileLines), anchor: Option<&Head>, parts: &[&str]| {
        let mut changed = lines.clone();
        change(&mut changed);
        put(&dir, &join(3, &changed));
        let error = verify(&dir, anchor).unwrap_err().to_string();
        put(&dir, &good);
        println!("{error}");
        parts.iter().for_each(|part| assert!(error.contains(part), "{part:?} is not in: {error}"));
    };
    let replace = |index: usize, from: &'static str, to: &'static str| {
        move |lines: &mut FileLines| {
            let text = String::from_utf8(lines[index].1.clone()).unwrap();
            lines[index].1 = text.replacen(from, to, 1).into_bytes();
        }
    };
    let (first, second) = ("audit-00000000000000000001.jsonl", "audit-00000000000000000003.jsonl");
    expect(&replace(2, "reason 2", "reason 9"), None, &[second, "line 2: its `previous`", "evidence"]);
    expect(&replace(1, "{", "["), None, &[first, "line 2: it is not a JSON object"]);
    expect(&replace(0, "\"0000", "\"1000"), None, &[first, "line 1: it is the first entry"]);
    expect(
        &|lines| drop(lines.remove(1)),
        None,
        &[second, "line 1: it has number 3 where 2 should", "removed"],
    );
    expect(
        &|lines| lines.insert(1, lines[0].clone()),
        None,
        &[first, "line 2: it has number 1 where 2", "repeated"],
    );
    expect(
        &|lines| drop(lines[4].1.splice(0..0, [b' '; MAX_LINE])),
        None,
        &["audit-00000000000000000005.jsonl, line 1: it is longer than 4096 bytes"],
    );
    expect(
        &|lines| lines[1].1 = lines[1].1.trim_ascii_end().to_vec(),
        None,
        &[first, "line 2: it ends without a newline"],
    );
    expect(
        &|lines| drop(lines.remove(0)),
        None,
        &[first, "line 1: it has number 2, but the file is named after"],
    );
    expect(
        &|lines| lines.truncate(5),
        Some(&head),
        &[
            "audit-00000000000000000005.jsonl, line 1: the log ends with number 5, but the anchor is number 6",
            "cut off",
            "backup",
        ],
    );
    let other = Head { number: 4, hash: Sha256Sum::of(b"other") };
    expect(&|_| {}, Some(&other), &[second, "line 2: the hash of number 4 is", "another node"]);
    fs::remove_file(lines::segment_path(&dir, 1)).unwrap();
    let error = verify(&dir, None).unwrap_err().to_string();
    println!("{error}");
    assert!(error.contains(second) && error.contains("begins with number 3, but has no entry"), "{error}");
}

#[test]
fn a_chain_that_was_computed_again_is_found_by_the_anchor() {
    let (_folder, log) = log_of(&some(9), Limits { segment: 420, segments: 9 });
    let dir = log.reader().dir();
    let good = files(dir);
    let heads = heads(&good);
    for target in 0..9 {
        let from = format!("reason {target}");
        let forged = forge(&good, target, &from, "reason X");
        put(dir, &forged);
        assert_eq!(verify(dir, None).unwrap().anchored, None, "only an anchor can find it");
        for head in &heads {
            let result = verify(dir, Some(head));
            if head.number > target as u64 {
                assert!(matches!(result, Err(VerifyError::Anchor { .. })), "{target} {head}: {result:?}");
            } else {
                assert_eq!(result.unwrap().anchored, Some(head.number), "it says how far it vouches");
            }
        }
    }
}

#[test]
fn a_log_that_began_later_needs_an_entry_that_says_so() {
    let (_folder, log) = log_of(&some(30), Limits { segment: 1, segments: 4 });
    let (dir, head) = (log.reader().dir().to_owned(), log.head());
    let verified = verify(&dir, Some(&head)).unwrap();
    assert!(verified.first > 20, "{verified:?}");
    let base = verified.first - 1;
    let error = verify(&dir, Some(&Head { number: base - 1, hash: Sha256Sum::ZERO })).unwrap_err();
    assert!(matches!(error, VerifyError::AnchorPruned { .. }), "{error}");
    println!("{error}");
    let error = verify(&dir, Some(&Head { number: base, hash: Sha256Sum::ZERO })).unwrap_err();
    assert!(matches!(error, VerifyError::Anchor { .. }), "the first line names its predecessor: {error}");
    let oldest = lines::segments(&dir).unwrap()[0];
    fs::remove_file(lines::segment_path(&dir, oldest)).unwrap();
    for anchor in [None, Some(&head)] {
        let error = verify(&dir, anchor).unwrap_err();
        assert!(matches!(error, VerifyError::Beginning { .. }), "{error}");
    }
}

#[test]
fn damage_is_recorded_once_and_the_log_goes_on() {
    let (_folder, log) = log_of(&some(5), WIDE);
    let dir = log.reader().dir().to_owned();
    drop(log);
    let mut bad = split(&files(&dir));
    bad[2].1 = String::from_utf8(bad[2].1.clone()).unwrap().replace("reason 2", "reason 9").into_bytes();
    put(&dir, &join(1, &bad));
    let evidence = files(&dir)[0].clone();
    let limits = Limits { segment: 1 << 20, segments: 2 };
    let mut log = open(&dir, limits);
    let damage = log.damage().unwrap().clone();
    assert_eq!(
        (damage.line, &damage.flaw, damage.file.clone()),
        (4, &Flaw::Previous, lines::segment_path(&dir, 1))
    );
    log.append(&reason("goes on"), now()).unwrap();
    assert_eq!(files(&dir)[0], evidence, "the file is left as it is");
    drop(log);
    let mut log = open(&dir, limits);
    assert_eq!((log.damage(), log.head().number), (None, 7), "once");
    match verify(&dir, None) {
        Err(VerifyError::Broken(found)) => assert_eq!(found, damage),
        result => panic!("{result:?}"),
    }
    let recorded = log.reader().entries().unwrap().nth(5).unwrap().unwrap();
    match recorded.event {
        Recorded::Known(Event::Damaged { file, line: 4, reason }) => {
            assert_eq!(file.as_str(), "audit-00000000000000000001.jsonl");
            assert_eq!(reason.as_str(), damage.flaw.to_string());
        }
        event => panic!("{event:?}"),
    }
    // Verification passes once the damaged file is pruned, and still says that there was damage.
    log.append_all(&vec![reason(&"x".repeat(250)); 3000], now()).unwrap();
    assert_eq!(files(&dir).len(), 2);
    let verified = verify(&dir, Some(&log.head())).unwrap();
    assert_eq!((verified.first, verified.damaged), (6, 1));
}

#[test]
fn whatever_is_done_to_the_newest_file_the_log_can_be_opened_and_numbers_grow() {
    let max = u64::MAX;
    let changes: Vec<Change> = vec![
        Box::new(|lines| drop(lines.remove(3))),
        Box::new(|lines| drop(lines.remove(4))),
        Box::new(|lines| lines.swap(4, 5)),
        Box::new(|lines| lines.insert(4, lines[3].clone())),
        Box::new(|lines| lines[4].1 = b"\n".to_vec()),
        Box::new(|lines| lines[4].1 = vec![b'\n'; 40]),
        Box::new(|lines| lines[4].1 = [vec![b'x'; 1 << 20], b"\n".to_vec()].concat()),
        Box::new(move |lines| {
            let text = String::from_utf8(lines[5].1.clone()).unwrap();
            lines[5].1 = text.replace("\"number\":6", &format!("\"number\":{max}")).into_bytes();
        }),
    ];
    for (index, change) in changes.iter().enumerate() {
        let (_folder, log) = log_of(&some(6), Limits { segment: 600, segments: 9 });
        let dir = log.reader().dir().to_owned();
        drop(log);
        let good = files(&dir);
        let newest = good.len() - 1;
        let mut lines = split(&good);
        assert!(lines.iter().filter(|(file, _)| *file == newest).count() == 3, "{}", good.len());
        change(&mut lines);
        put(&dir, &join(good.len(), &lines));
        let mut log = open(&dir, WIDE);
        assert!(log.damage().is_some(), "change {index}");
        assert!((5..100).contains(&log.head().number), "change {index}: {}", log.head());
        log.append(&reason("goes on"), now()).unwrap();
        assert!(matches!(verify(&dir, None), Err(VerifyError::Broken(_))), "change {index}");
        let head = log.head();
        drop(log);
        let log = open(&dir, WIDE);
        assert_eq!((log.damage(), log.head()), (None, head), "change {index}");
    }
}

#[test]
fn a_missing_or_renamed_file_is_found_on_opening() {
    for rename in [false, true] {
        let (_folder, log) = log_of(&some(6), Limits { segment: 420, segments: 9 });
        let dir = log.reader().dir().to_owned();
        drop(log);
        if rename {
            fs::rename(lines::segment_path(&dir, 5), lines::segment_path(&dir, 7)).unwrap();
        } else {
            fs::remove_file(lines::segment_path(&dir, 3)).unwrap();
        }
        let log = open(&dir, WIDE);
        assert!(log.damage().is_some());
        assert!(matches!(verify(&dir, None), Err(VerifyError::Broken(_))));
    }
}

#[test]
fn an_empty_newest_file_that_does_not_follow_is_recorded_once() {
    // Without the file before, and with one line more in it.
    for removed in [true, false] {
        let (_folder, log) = log_of(&some(6), Limits { segment: 420, segments: 9 });
        let dir = log.reader().dir().to_owned();
        drop(log);
        let good = files(&dir);
        fs::write(lines::segment_path(&dir, 5), "").unwrap();
        if removed {
            fs::remove_file(lines::segment_path(&dir, 3)).unwrap();
        } else {
            let line = &split(&good)[4].1;
            fs::write(lines::segment_path(&dir, 3), [&good[1], line.as_slice()].concat()).unwrap();
        }
        let log = open(&dir, WIDE);
        let expected = if removed { 3 } else { 6 };
        assert_eq!(log.damage().unwrap().flaw, Flaw::Number { expected, found: 5 });
        let head = log.head();
        drop(log);
        let log = open(&dir, WIDE);
        assert_eq!((log.damage(), log.head()), (None, head));
    }
}

#[test]
fn an_older_file_with_a_torn_line_is_damage() {
    let (_folder, log) = log_of(&some(6), Limits { segment: 420, segments: 9 });
    let dir = log.reader().dir().to_owned();
    drop(log);
    let older = lines::segment_path(&dir, 3);
    fs::write(&older, [&files(&dir)[1], b"torn".as_slice()].concat()).unwrap();
    fs::write(lines::segment_path(&dir, 5), "").unwrap();
    let log = open(&dir, WIDE);
    assert_eq!(log.damage(), Some(&Break { file: older, line: 3, flaw: Flaw::Incomplete }));
    assert_eq!(log.head().number, 5, "recorded in the file that was empty");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_change_of_one_byte_is_found(
        events in events(12), limits in limits(), at in any::<prop::sample::Index>(), flip in 1u8..=255
    ) {
        let (_folder, log) = log_of(&events, limits);
        let (dir, head) = (log.reader().dir(), log.head());
        let good = files(dir);
        let last = split(&good).last().unwrap().1.len();
        let total: usize = good.iter().map(Vec::len).sum();
        let position = at.index(total);
        let mut left = position;
        let mut bad = good.clone();
        for file in &mut bad {
            if left < file.len() {
                file[left] ^= flip;
                break;
            }
            left -= file.len();
        }
        put(dir, &bad);
        prop_assert!(verify(dir, Some(&head)).is_err(), "with the anchor");
        prop_assert!(is_found(dir, None) || position >= total - last, "without an anchor");
    }

    #[test]
    fn any_removed_repeated_or_swapped_line_is_found(
        events in events(12), limits in limits(), one in any::<prop::sample::Index>(), two in any::<prop::sample::Index>()
    ) {
        let (_folder, log) = log_of(&events, limits);
        let (dir, head) = (log.reader().dir(), log.head());
        let good = files(dir);
        let lines = split(&good);
        let (one, two) = (one.index(lines.len()), two.index(lines.len()));
        let check = |name: &str, changed: &[(usize, Vec<u8>)], hidden: bool| {
            put(dir, &join(good.len(), changed));
            assert!(verify(dir, Some(&head)).is_err(), "{name} {one} {two}, with the anchor");
            assert!(is_found(dir, None) || hidden, "{name} {one} {two}, without an anchor");
        };
        let mut removed = lines.clone();
        removed.remove(one);
        check("removed", &removed, one + 1 == lines.len());
        let mut repeated = lines.clone();
        let copy = (lines[two].0, lines[one].1.clone());
        repeated.insert(two, copy);
        check("repeated", &repeated, false);
        if one != two {
            let mut swapped = lines.clone();
            let (a, b) = (lines[one].1.clone(), lines[two].1.clone());
            (swapped[one].1, swapped[two].1) = (b, a);
            check("swapped", &swapped, false);
        }
    }

    #[test]
    fn an_anchor_finds_every_cut_below_it(
        events in events(12), limits in limits(), cut in any::<prop::sample::Index>(), anchor in any::<prop::sample::Index>()
    ) {
        let (_folder, log) = log_of(&events, limits);
        let dir = log.reader().dir();
        let good = files(dir);
        let heads = heads(&good);
        let anchor = heads[anchor.index(heads.len())];
        prop_assert_eq!(verify(dir, Some(&anchor)).unwrap().anchored, Some(anchor.number));
        // Keeps some lines, and removes the files after them.
        let keep = cut.index(heads.len());
        let lines = split(&good);
        let kept = join(good.len(), &lines[..keep]);
        let segments = lines::segments(dir).unwrap();
        for (segment, file) in segments.iter().zip(&kept) {
            let path = lines::segment_path(dir, *segment);
            if file.is_empty() { fs::remove_file(path).unwrap() } else { fs::write(path, file).unwrap() }
        }
        let result = verify(dir, Some(&anchor));
        let below = keep == 0 || heads[keep - 1].number < anchor.number;
        prop_assert!(result.is_err() || !below, "{:?}", result);
        match verify(dir, None) {
            Ok(verified) => {
                prop_assert_eq!(verified.anchored, None);
                prop_assert_eq!(verified.head, heads[..keep].last().copied().unwrap_or(Head::EMPTY));
                prop_assert!(below || result.is_ok());
            }
            // The entry that says what was pruned was cut off too.
            Err(error) => prop_assert!(matches!(error, VerifyError::Beginning { .. }), "{}", error),
        }
    }
}
