//! Kills, power loss and failing writes.

use super::*;
use crate::durable::fault::killed_after;

/// A power loss that left only `length` bytes of the newest file.
fn cut_newest(dir: &Path, length: usize) {
    let newest = *lines::segments(dir).unwrap().last().unwrap();
    let path = lines::segment_path(dir, newest);
    let bytes = fs::read(&path).unwrap();
    fs::write(path, &bytes[..length]).unwrap();
}

/// Opens a log after a power loss, and checks that all complete lines of `left` are there.
fn reopen_after_loss(dir: &Path, limits: Limits) {
    let left = files(dir);
    let torn = left.last().is_some_and(|file| file.last().is_some_and(|byte| *byte != b'\n'));
    let before = verify(dir, None).unwrap();
    assert_eq!(before.torn_tail, torn);
    let complete: Vec<Vec<u8>> =
        split(&left).into_iter().map(|(_, line)| line).filter(|line| line.ends_with(b"\n")).collect();
    let log = open(dir, limits);
    assert_eq!(log.damage(), None);
    let after: Vec<Vec<u8>> = split(&files(dir)).into_iter().map(|(_, line)| line).collect();
    assert_eq!(after[..complete.len()], complete, "no complete line is lost");
    let verified = verify(dir, Some(&log.head())).unwrap();
    assert_eq!(verified.repaired, before.repaired + u64::from(torn));
    assert_eq!(after.len(), complete.len() + usize::from(torn));
    assert!(!verified.torn_tail);
}

#[test]
fn power_loss_at_every_byte_of_the_last_append_is_repaired() {
    let mut cuts = 0;
    for (limits, batch) in [(WIDE, 1), (WIDE, 3), (Limits { segment: 420, segments: 9 }, 1)] {
        let (_folder, mut log) = log_of(&some(2), limits);
        let dir = log.reader().dir().to_owned();
        let before = files(&dir);
        log.append_all(&some(batch), now()).unwrap();
        drop(log);
        let good = files(&dir);
        let start = if good.len() > before.len() { 0 } else { before[0].len() };
        for length in start..=good.last().unwrap().len() {
            put(&dir, &good);
            cut_newest(&dir, length);
            reopen_after_loss(&dir, WIDE);
            cuts += 1;
        }
    }
    println!("{cuts} cuts");
}

#[test]
fn what_was_cut_off_is_recorded() {
    let (_folder, log) = log_of(&some(2), WIDE);
    let dir = log.reader().dir().to_owned();
    drop(log);
    for torn in [b"{\"number\":3,\"at".to_vec(), vec![0; 5000], b"not JSON\n".to_vec()] {
        let good = files(&dir);
        put(&dir, &[[good[0].clone(), torn.clone()].concat()]);
        assert!(verify(&dir, None).unwrap().torn_tail);
        let log = open(&dir, WIDE);
        let newest = log.reader().newest(1).unwrap().remove(0).unwrap();
        let sha256 = Sha256Sum::of(torn.strip_suffix(b"\n").unwrap_or(&torn));
        assert_eq!(newest.event, Recorded::Known(Event::Repaired { bytes: torn.len() as u64, sha256 }));
        assert_eq!(verify(&dir, Some(&log.head())).unwrap().head, log.head());
    }
}

/// Prepares a log, and does what is killed.
type Call = fn(&Path) -> Result<Head, AuditError>;

const TIGHT: Limits = Limits { segment: 600, segments: 2 };

fn append(dir: &Path, count: usize) -> Result<Head, AuditError> {
    AuditLog::open(dir, TIGHT, now())?.append_all(&some(count), now())
}

#[test]
fn a_kill_at_any_step_loses_nothing_that_was_acknowledged() {
    let opening: Call = |dir| AuditLog::open(dir, TIGHT, now()).map(|log| log.head());
    // (lines before, bytes to tear off, call): first start, append, new file, pruning, repair.
    let cases: [(usize, usize, Call); 6] = [
        (0, 0, opening),
        (1, 0, |dir| append(dir, 1)),
        (1, 0, |dir| append(dir, 5)),
        (8, 0, |dir| append(dir, 3)),
        (3, 30, opening),
        (4, 30, |dir| append(dir, 2)),
    ];
    for (index, (before, tear, call)) in cases.into_iter().enumerate() {
        let mut steps = 0;
        loop {
            let folder = tempfile::tempdir().unwrap();
            let dir = folder.path().join("audit");
            let mut acknowledged = Head::EMPTY;
            if before > 0 {
                let mut log = open(&dir, TIGHT);
                some(before).iter().for_each(|event| acknowledged = log.append(event, now()).unwrap());
            }
            if tear > 0 {
                let good = files(&dir);
                cut_newest(&dir, good.last().unwrap().len() - tear);
                let heads = heads(&good);
                acknowledged = heads[heads.len() - 2];
            }
            if killed_after(steps, || call(&dir)).is_none() {
                break;
            }
            if dir.exists() {
                verify(&dir, Some(&acknowledged)).unwrap_or_else(|error| panic!("{index}, {steps}: {error}"));
            }
            let mut log = open(&dir, TIGHT);
            assert_eq!(log.damage(), None, "case {index}, {steps} steps");
            assert!(log.prune_error().is_none());
            let verified = verify(&dir, Some(&acknowledged)).unwrap();
            assert!(!verified.torn_tail && verified.head == log.head());
            assert!(files(&dir).len() <= TIGHT.segments);
            log.append(&reason("goes on"), now()).unwrap();
            verify(&dir, Some(&log.head())).unwrap();
            steps += 1;
        }
        println!("case {index}: {steps} kills");
        assert!(steps >= 4, "only {steps} kills were tried in case {index}");
    }
}

#[test]
fn damage_is_recorded_despite_kills() {
    let mut steps = 0;
    loop {
        let (_folder, log) = log_of(&some(3), WIDE);
        let dir = log.reader().dir().to_owned();
        drop(log);
        let mut bad = split(&files(&dir));
        bad.remove(1);
        put(&dir, &join(1, &bad));
        if killed_after(steps, || AuditLog::open(&dir, WIDE, now()).map(drop)).is_none() {
            break;
        }
        drop(open(&dir, WIDE));
        let log = open(&dir, WIDE);
        let damaged = |entry: &Entry| matches!(entry.event, Recorded::Known(Event::Damaged { line: 2, .. }));
        let count = log.reader().entries().unwrap().filter(|entry| damaged(entry.as_ref().unwrap())).count();
        assert_eq!(count, 1, "after {steps} steps");
        assert_eq!(log.damage(), None);
        steps += 1;
    }
    assert!(steps >= 6, "only {steps} kills were tried");
}

#[test]
fn after_a_failed_write_the_same_process_goes_on() {
    for limits in [WIDE, TIGHT, Limits { segment: 1, segments: 1 }] {
        let mut steps = 0;
        loop {
            let (_folder, mut log) = log_of(&some(4), limits);
            let dir = log.reader().dir().to_owned();
            let before = log.head();
            let Some(result) = killed_after(steps, || log.append_all(&some(3), now())) else { break };
            match result {
                Err(error) => assert_eq!(log.head(), before, "{steps} steps: {error}"),
                // Recorded: the pruning failed, or nothing did.
                Ok(head) => assert_eq!(head, log.head()),
            }
            let head = log.head();
            log.append(&reason("next"), now()).unwrap();
            assert!(log.prune_error().is_none());
            let verified = verify(&dir, Some(&head)).unwrap();
            assert!(verified.head == log.head() && !verified.torn_tail && verified.repaired == 0);
            assert!(files(&dir).len() <= limits.segments);
            steps += 1;
        }
        println!("{limits:?}: {steps} failures");
        assert!(steps >= 4);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_of_the_newest_file_can_be_opened(
        events in events(12), limits in limits(), cut in any::<prop::sample::Index>()
    ) {
        let (_folder, log) = log_of(&events, Limits { segments: 100, ..limits });
        let dir = log.reader().dir().to_owned();
        drop(log);
        let length = files(&dir).last().unwrap().len();
        cut_newest(&dir, cut.index(length + 1));
        reopen_after_loss(&dir, Limits { segments: 100, ..limits });
    }

    /// Whatever is appended and killed wherever, with or without a new process after it: what was acknowledged
    /// stays, and the log verifies.
    #[test]
    fn any_appends_with_kills_keep_the_log_sound(
        calls in proptest::collection::vec((0usize..4, proptest::option::of(0u32..16), any::<bool>()), 1..16),
        segment in 1u64..2000
    ) {
        let limits = Limits { segment, segments: 6 };
        let (_folder, log) = log_of(&[], limits);
        let dir = log.reader().dir().to_owned();
        let mut log = Some(log);
        let mut acknowledged = Head::EMPTY;
        for (count, kill, restart) in calls {
            let call = || match log.take() {
                Some(mut open) => {
                    let result = open.append_all(&some(count), now());
                    log = Some(open);
                    result
                }
                None => AuditLog::open(&dir, limits, now()).and_then(|mut open| {
                    let result = open.append_all(&some(count), now());
                    log = Some(open);
                    result
                }),
            };
            let mut call = call;
            match kill {
                Some(steps) => drop(killed_after(steps, &mut call)),
                None => drop(call().unwrap()),
            }
            if let Some(log) = &log {
                acknowledged = log.head();
            }
            if restart {
                log = None;
            }
            let verified = verify(&dir, Some(&acknowledged));
            prop_assert!(verified.is_ok(), "{}", verified.unwrap_err());
        }
        drop(log);
        let log = open(&dir, limits);
        prop_assert_eq!(log.damage(), None);
        prop_assert!(!verify(&dir, Some(&acknowledged)).unwrap().torn_tail);
    }
}
