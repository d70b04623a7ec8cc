//! How much is asked at once, and how soon again.

use super::*;

#[tokio::test]
async fn few_nodes_are_asked_for_at_once() {
    let server = server(0..u16::try_from(MOST_GETS).unwrap());
    let bench = Bench::start(&server, &[], LONG);
    until("all to be confirmed", || bench.confirmed.is_synced()).await;
    assert_eq!(server.requests().len(), MOST_GETS, "a GET of each");
    assert_eq!(server.most_waiting.load(Ordering::Relaxed), AT_ONCE);
}

#[tokio::test]
async fn a_pause_lies_between_two_pages() {
    let server = server(0..20);
    // Small ones: it takes no time to read them.
    *server.most_items.lock().unwrap() = Some(5);
    let bench = Bench::start(&server, &[], LONG);
    until("all to be confirmed", || bench.confirmed.is_synced()).await;
    let times = server.times.lock().unwrap().clone();
    let pauses: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses.len(), 3, "four pages");
    assert!(pauses.iter().all(|pause| *pause >= ANSWERING + PAGE_PAUSE / 2), "{pauses:?}");
}

/// Counted in pauses that are made beside, because on a busy machine all of them get longer.
#[tokio::test]
async fn the_first_attempt_after_a_failure_comes_soon() {
    let server = server(0..100);
    *server.failing.lock().unwrap() = ("", usize::MAX);
    let ticks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ticks);
    let ticking = tokio::spawn(async move {
        loop {
            tokio::time::sleep(FIRST_RETRY).await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let _bench = Bench::start(&server, &[], LONG);
    until("a second attempt", || server.requests().len() >= 2).await;
    ticking.abort();
    let ticks = ticks.load(Ordering::Relaxed);
    assert!(ticks < 4, "{ticks} pauses of {FIRST_RETRY:?} passed before the second attempt");
}

#[tokio::test]
async fn a_node_that_has_not_changed_is_not_asked_for_again() {
    let (mut confirmer, now) = (parts(&server([]), LONG), Instant::now());
    confirmer.nodes.apply(&name(1), "7".into(), claims(1, true));
    confirmer.agenda.answered(&name(1).name, "7", now);
    let later = now + LAST_PAUSE;
    assert!(confirmer.due(later).present.is_empty());
    assert!(confirmer.agenda.next().unwrap() > later, "it is looked at again after another pause");
    confirmer.nodes.apply(&name(1), "8".into(), claims(1, true));
    assert_eq!(confirmer.due(later + LAST_PAUSE).present.len(), 1);
}

#[tokio::test]
async fn missing_nodes_are_asked_for_a_few_in_a_second_and_the_contested_first() {
    let (mut confirmer, now) = (parts(&server([]), LONG), Instant::now());
    for n in 0..20 {
        let answer = Confirmed { uid: format!("uid-{n}"), asked: None, facts: claims(n, true).facts() };
        confirmer.confirmed.apply(&name(n), String::new(), answer);
        confirmer.missing.insert(name(n).name);
        confirmer.agenda.ask(&name(n).name, now);
    }
    confirmer.seen = Arc::new([name(19).name].into());
    let due = confirmer.due(now);
    assert_eq!((due.missing.len(), &due.missing[0].0), (AT_ONCE, &name(19)));
    assert_eq!(confirmer.agenda.due(now).len(), AT_ONCE, "the others wait");
    assert_eq!(confirmer.agenda.due(now + Duration::from_secs(1)).len(), 20);
}
