//! The form of a line.

use super::*;

fn key() -> PublicKey {
    PublicKey::from_bytes([9; 32])
}

#[test]
fn a_log_reads_as_documented() {
    let (_folder, mut log) = log_of(&[], WIDE);
    assert_eq!(log.head(), Head::EMPTY);
    log.append(&Event::KeyCreated { epoch: 1, public_key: key() }, now()).unwrap();
    let later = "2026-01-31T12:00:00.25Z".parse().unwrap();
    let head = log
        .append(&Event::KeyPromoted { epoch: 1, public_key: key(), confirmed: 2, live: 3 }, later)
        .unwrap();
    log.append(&Event::GuardClosed {}, later).unwrap();
    let files = files(log.reader().dir());
    let text = String::from_utf8(files[0].clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let zeros = "0".repeat(64);
    let key = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=";
    let first = format!(
        r#"{{"number":1,"at":"2026-01-31T12:00:00Z","event":"keyCreated","epoch":1,"publicKey":"{key}","previous":"{zeros}"}}"#
    );
    assert_eq!(lines[0], first);
    let sum = Sha256Sum::of(first.as_bytes());
    assert_eq!(
        lines[1],
        format!(
            r#"{{"number":2,"at":"2026-01-31T12:00:00.25Z","event":"keyPromoted","epoch":1,"publicKey":"{key}","confirmed":2,"live":3,"previous":"{sum}"}}"#
        )
    );
    assert_eq!(head, Head { number: 2, hash: Sha256Sum::of(lines[1].as_bytes()) });
    assert!(lines[2].contains(r#""event":"guardClosed","previous""#), "{}", lines[2]);
}

#[test]
fn the_longest_entries_fit_a_line() {
    let worst = |character: char| Text::from(character.to_string().repeat(10 << 20));
    let mut longest = 0;
    for character in ['a', '\n', '"', '\0', '\u{9b}', '語', '🧵'] {
        let text = || worst(character);
        let revoked =
            Event::KeyRevoked { node: text(), uid: text(), public_keys: vec![key(); 255], by: text() };
        let requested =
            Event::RotationRequested { id: text(), by: text(), reason: text(), deadline: Timestamp::MAX };
        assert_eq!(revoked.parts().len(), 255_usize.div_ceil(24));
        for event in revoked.parts().into_iter().chain(requested.parts()) {
            let line = entry::encode(u64::MAX, Timestamp::MIN, &event, Sha256Sum::ZERO);
            assert!(line.len() <= MAX_LINE && !line.contains(&b'\n'), "{} bytes", line.len());
            assert_eq!(Entry::parse(&line).unwrap().event, Recorded::Known(event.into_owned()));
            longest = longest.max(line.len());
        }
    }
    println!("the longest line has {longest} bytes");
    let (_folder, mut log) = log_of(&[], WIDE);
    let revoked = Event::KeyRevoked {
        node: worst('\n'),
        uid: worst('"'),
        public_keys: vec![key(); 255],
        by: worst('\0'),
    };
    assert_eq!(log.append(&revoked, now()).unwrap().number, 11);
    assert_eq!(verify(log.reader().dir(), Some(&log.head())).unwrap().entries, 11);
    let keys = log.reader().entries().unwrap().map(|entry| match entry.unwrap().event {
        Recorded::Known(Event::KeyRevoked { public_keys, .. }) => public_keys.len(),
        event => panic!("{event:?}"),
    });
    assert_eq!(keys.sum::<usize>(), 255);
}

#[test]
fn events_of_a_later_version_are_read_and_followed() {
    let (_folder, log) = log_of(&some(2), WIDE);
    let (dir, head) = (log.reader().dir().to_owned(), log.head());
    drop(log);
    let line = format!(
        r#"{{"number":3,"at":"2031-01-01T00:00:00Z","event":"keyTeleported","to":{{"x":[1]}},"previous":"{}"}}"#,
        head.hash
    );
    let mut files = files(&dir);
    files[0].extend_from_slice(format!("{line}\n").as_bytes());
    put(&dir, &files);
    assert_eq!(verify(&dir, None).unwrap().entries, 3);
    let mut log = open(&dir, WIDE);
    assert_eq!((log.damage(), log.head().number), (None, 3));
    log.append(&reason("after"), now()).unwrap();
    assert_eq!(verify(&dir, Some(&log.head())).unwrap().entries, 4);
    let entries: Vec<Entry> = log.reader().entries().unwrap().map(Result::unwrap).collect();
    assert_eq!(entries[2].event, Recorded::Unknown { event: "keyTeleported".into(), line });
    assert_eq!(entries[3].event, Recorded::Known(reason("after")));
}

#[test]
fn lines_that_are_not_of_the_form_are_not_read() {
    let zeros = "0".repeat(64);
    let good = format!(r#"{{"number":1,"at":"2026-01-31T12:00:00Z","event":"x","previous":"{zeros}"}}"#);
    assert!(entry::Frame::parse(good.as_bytes()).is_some());
    for (from, to) in [
        ("12:00:00Z", "12:00:00+00:00"),
        ("\"number\":1", "\"number\":-1"),
        ("\"number\":1", "\"number\":1,\"number\":1"),
        ("\"event\":\"x\",", ""),
        ("0\"}", "0\"}}"),
        ("0\"}", "A\"}"),
        ("{", ""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert!(entry::Frame::parse(bad.as_bytes()).is_none(), "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_event_is_one_bounded_line_that_reads_back(event in event(), number in any::<u64>()) {
        for event in event.parts() {
            let line = entry::encode(number, now(), &event, Sha256Sum::ZERO);
            prop_assert!(line.len() <= MAX_LINE);
            prop_assert!(!line.iter().any(|byte| *byte < b' ' || *byte == 0x7f), "a control character");
            let entry = Entry::parse(&line).unwrap();
            prop_assert_eq!((entry.number, entry.at), (number, now()));
            prop_assert_eq!(entry.event, Recorded::Known(event.into_owned()));
        }
    }

    #[test]
    fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Entry::parse(&bytes);
        let _ = bytes.iter().map(|byte| char::from(*byte)).collect::<String>().parse::<Head>();
    }
}
