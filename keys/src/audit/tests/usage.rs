//! Writing, reading and pruning.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::AccessError;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn size(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn a_log_goes_on_where_it_ended() {
    let (_folder, mut log) = log_of(&some(3), WIDE);
    let batch = log.append_all(&some(4), now()).unwrap();
    assert_eq!((batch.number, log.append_all(&[], now()).unwrap()), (7, batch));
    let dir = log.reader().dir().to_owned();
    drop(log);
    let mut log = open(&dir, WIDE);
    assert_eq!((log.head(), log.reader().head().unwrap()), (batch, batch));
    let head = log.append(&reason("again"), now()).unwrap();
    let verified = verify(&dir, Some(&head)).unwrap();
    assert_eq!((verified.first, verified.entries, verified.head), (1, 8, head));
    assert_eq!((verified.anchored, verified.repaired, verified.torn_tail), (Some(8), 0, false));
}

#[test]
fn an_empty_log_passes_and_an_anchor_finds_that_it_was_emptied() {
    let (_folder, log) = log_of(&[], WIDE);
    let dir = log.reader().dir().to_owned();
    assert_eq!(verify(&dir, None).unwrap().anchored, None);
    assert_eq!(verify(&dir, Some(&Head::EMPTY)).unwrap().anchored, Some(0));
    let anchor = Head { number: 4, hash: Sha256Sum::of(b"x") };
    assert!(matches!(verify(&dir, Some(&anchor)), Err(VerifyError::CutOff { .. })));
    fs::remove_file(lines::segment_path(&dir, 1)).unwrap();
    assert!(matches!(verify(&dir, Some(&anchor)), Err(VerifyError::CutOff { .. })));
    assert!(matches!(verify(dir.join("missing"), None), Err(VerifyError::Read { .. })));
}

#[test]
fn folder_and_files_are_for_the_owner_alone() {
    let (folder, log) = log_of(&some(1), WIDE);
    let dir = log.reader().dir().to_owned();
    let file = lines::segment_path(&dir, 1);
    assert_eq!((mode(&dir), mode(&file)), (0o700, 0o600));
    drop(log);
    chmod(&file, 0o640);
    let error = AuditLog::open(&dir, WIDE, now()).unwrap_err().to_string();
    assert!(error.contains("has mode 0640") && error.contains("chmod 0600 /"), "{error}");
    let error = AuditReader::open(&dir).unwrap().entries().unwrap().next().unwrap().unwrap_err();
    assert!(matches!(error, AuditError::Access(AccessError::Mode { .. })), "{error}");
    chmod(&file, 0o600);
    chmod(&dir, 0o750);
    let error = AuditLog::open(&dir, WIDE, now()).unwrap_err().to_string();
    assert!(error.contains("has mode 0750") && error.contains("chmod 0700 /"), "{error}");
    chmod(&dir, 0o700);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    assert!(matches!(AuditLog::open(&link, WIDE, now()), Err(AuditError::Io { action: "open folder", .. })));
    std::os::unix::fs::symlink(&file, lines::segment_path(&dir, 2)).unwrap();
    assert!(matches!(AuditLog::open(&dir, WIDE, now()), Err(AuditError::Io { action: "open", .. })));
}

#[test]
fn a_second_writer_is_refused_until_the_first_ends() {
    let (_folder, log) = log_of(&some(1), WIDE);
    let dir = log.reader().dir().to_owned();
    let error = AuditLog::open(&dir, WIDE, now()).unwrap_err();
    assert!(matches!(error, AuditError::Locked { .. }), "{error}");
    drop(log);
    assert_eq!(open(&dir, WIDE).head().number, 1);
    let logs: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| AuditLog::open(&dir, WIDE, now()))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(logs.iter().filter(|log| log.is_ok()).count(), 1);
}

#[test]
fn entries_are_selected_by_count_and_time() {
    let limits = Limits { segment: 600, segments: 1000 };
    let (_folder, mut log) = log_of(&[], limits);
    let at = |second| Timestamp::from_second(second).unwrap();
    for second in 1..=50 {
        log.append(&reason("x"), at(second)).unwrap();
    }
    let reader = AuditReader::open(log.reader().dir()).unwrap();
    assert!(reader.segments().unwrap().len() > 10);
    let numbers = |entries: Vec<Result<Entry, AuditError>>| -> Vec<u64> {
        entries.into_iter().map(|entry| entry.unwrap().number).collect()
    };
    for count in [0, 1, 2, 3, 7, 49, 50, 51, 1000] {
        let expected: Vec<u64> = (51 - (count as u64).min(50)..=50).collect();
        assert_eq!(numbers(reader.newest(count).unwrap()), expected, "newest {count}");
    }
    assert_eq!(numbers(reader.since(at(48)).unwrap().collect()), [48, 49, 50]);
    assert_eq!(numbers(reader.since(at(99)).unwrap().collect()), [0; 0]);
    assert_eq!(reader.head().unwrap(), log.head());
}

#[test]
fn a_line_that_cannot_be_read_hides_no_other() {
    let (_folder, log) = log_of(&some(3), WIDE);
    let dir = log.reader().dir();
    let mut lines = split(&files(dir));
    lines[1].1 = b"garbage\n".to_vec();
    put(dir, &join(1, &lines));
    let entries: Vec<_> = log.reader().entries().unwrap().collect();
    assert_eq!((entries.len(), entries[0].is_ok(), entries[2].is_ok()), (3, true, true));
    let error = entries[1].as_ref().unwrap_err().to_string();
    assert!(error.contains("audit-00000000000000000001.jsonl, line 2: it is not a JSON object"), "{error}");
}

#[test]
fn pruning_keeps_the_size_bounded_over_thousands_of_appends() {
    let limits = Limits { segment: 8 << 10, segments: 4 };
    let (_folder, mut log) = log_of(&[], limits);
    let dir = log.reader().dir().to_owned();
    let (mut greatest, mut first, mut appended) = (0, 0, 0);
    let text = "why ".repeat(64);
    for number in 0..3000_usize {
        log.append(&reason(&text[..number * 7 % text.len()]), now()).unwrap();
        assert!(log.prune_error().is_none());
        appended += 1;
        greatest = greatest.max(size(&dir));
        if number % 50 == 0 {
            let verified = verify(&dir, Some(&log.head())).unwrap();
            assert!(verified.first >= first, "lines only go from the oldest end");
            first = verified.first;
        }
    }
    let bound = limits.segment * limits.segments as u64 + MAX_LINE as u64;
    assert!(greatest <= bound, "{greatest} bytes");
    assert!(greatest > bound / 2 && first > 1000, "it was pruned: {greatest} bytes, first {first}");
    assert_eq!(lines::segments(&dir).unwrap().len(), 4);
    println!("{appended} appends: at most {greatest} of {bound} bytes; the oldest line is number {first}");
}

#[test]
fn a_lower_limit_prunes_on_opening() {
    let (_folder, log) = log_of(&some(20), Limits { segment: 1, segments: 100 });
    let dir = log.reader().dir().to_owned();
    drop(log);
    assert_eq!(files(&dir).len(), 20);
    let log = open(&dir, Limits { segment: 1, segments: 3 });
    assert_eq!(files(&dir).len(), 3);
    let verified = verify(&dir, Some(&log.head())).unwrap();
    assert_eq!((verified.first, verified.head.number), (18, 37), "each of 17 files has its entry");
}

#[test]
fn a_file_that_cannot_be_deleted_keeps_no_event_from_being_recorded() {
    let (_folder, mut log) = log_of(&some(2), Limits { segment: 1, segments: 2 });
    let dir = log.reader().dir().to_owned();
    // A folder in its place cannot be deleted, even by root.
    let oldest = lines::segment_path(&dir, 1);
    let content = fs::read(&oldest).unwrap();
    fs::remove_file(&oldest).unwrap();
    fs::create_dir(&oldest).unwrap();
    for number in 3..6 {
        assert_eq!(log.append(&reason("recorded all the same"), now()).unwrap().number, number);
        assert!(log.prune_error().is_some());
    }
    fs::remove_dir(&oldest).unwrap();
    fs::write(&oldest, content).unwrap();
    chmod(&oldest, 0o600);
    log.append(&reason("prunes again"), now()).unwrap();
    assert!(log.prune_error().is_none());
    assert_eq!(files(&dir).len(), 2);
    verify(&dir, Some(&log.head())).unwrap();
}

#[test]
fn readers_and_verification_run_beside_the_writer() {
    let (_folder, mut log) = log_of(&some(1), Limits { segment: 700, segments: 3 });
    let dir = log.reader().dir().to_owned();
    let done = std::sync::atomic::AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                verify(&dir, None).unwrap();
                let reader = AuditReader::open(&dir).unwrap();
                reader.entries().unwrap().for_each(|entry| drop(entry.unwrap()));
                rounds += 1;
            }
            rounds
        });
        for event in some(600) {
            log.append(&event, now()).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap()
    });
    println!("verified {rounds} times beside 600 appends");
    assert!(rounds > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_events_under_any_limits_verify(events in events(20), limits in limits()) {
        let (_folder, mut log) = log_of(&events, limits);
        log.append_all(&events, now()).unwrap();
        let dir = log.reader().dir();
        prop_assert!(files(dir).len() <= limits.segments);
        let verified = verify(dir, Some(&log.head())).unwrap();
        prop_assert_eq!(verified.head, log.head());
        prop_assert_eq!(verified.anchored, Some(log.head().number));
        prop_assert_eq!(log.reader().entries().unwrap().filter(Result::is_ok).count() as u64, verified.entries);
        prop_assert_eq!(log.reader().head().unwrap(), log.head());
    }
}
