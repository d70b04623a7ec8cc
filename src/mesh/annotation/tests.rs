use proptest::prelude::*;
use selvedge_keys::PrivateKey;

use super::*;

pub(in crate::mesh) fn key(seed: u8) -> PublicKey {
    PrivateKey::from_bytes([seed; 32]).public_key()
}

fn good() -> BTreeMap<String, String> {
    [
        (PUBLIC_KEY, key(1).to_string()),
        (KEY_EPOCH, "7".into()),
        (KEY_CREATED, "2026-01-31T12:00:00Z".into()),
        (ENDPOINTS, "192.0.2.1:51830,[2001:db8::1]:51830".into()),
        (POD_CIDRS, "10.244.1.0/24,fd00:10:244:1::/64".into()),
        (NODE_ADDRESSES, "192.0.2.1,2001:db8::1".into()),
        (LOCATION, "site-a".into()),
        (FEATURES, "lanes=4,pq-psk".into()),
    ]
    .map(|(name, text)| (name.to_owned(), text))
    .into()
}

fn with(name: &str, text: &str) -> Result<Option<NodeAnnotations>, Vec<AnnotationError>> {
    let mut texts = good();
    texts.insert(name.into(), text.into());
    parse(&texts)
}

#[test]
fn a_node_is_read() {
    let node = parse(&good()).unwrap().unwrap();
    assert_eq!((node.keys.public_key, node.key_epoch), (key(1), 7));
    assert_eq!(node.endpoints[1], "[2001:db8::1]:51830".parse().unwrap());
    assert_eq!(node.pod_cidrs.len(), 2);
    assert_eq!(node.location.as_deref(), Some("site-a"));
    assert_eq!(node.features, ["lanes=4", "pq-psk"]);
    assert_eq!(render(&node), good());
}

#[test]
fn a_node_without_key_is_no_member() {
    let mut texts = good();
    texts.remove(PUBLIC_KEY);
    texts.insert(ENDPOINTS.into(), "nonsense".into());
    assert_eq!(parse(&texts), Ok(None));
    assert_eq!(parse(&BTreeMap::new()), Ok(None));
}

#[test]
fn malformed_values_are_refused_with_their_name() {
    let k = |seed| key(seed).to_string();
    let nine = (1..10).map(|n| format!("192.0.2.{n}:1")).collect::<Vec<_>>().join(",");
    let low_order = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (name, text, expected) in [
        (PUBLIC_KEY, "!!", "`!!`: key is not valid base64"),
        (PUBLIC_KEY, "", "``: key has 0 bytes, expected 32"),
        (PUBLIC_KEY, low_order, "low-order point"),
        (LANE_KEYS, &k(1), "a second time"),
        (LANE_KEYS, "AAAA", "expected 32"),
        (NEXT_PUBLIC_KEY, &k(1), "a second time"),
        (NEXT_LANE_KEYS, &k(2), "needs selvedge.dev/next-public-key"),
        (KEY_EPOCH, "0", "`0` is no epoch"),
        (KEY_EPOCH, "-1", "is no epoch"),
        (KEY_EPOCH, "+1", "is no epoch"),
        (KEY_EPOCH, "01", "is no epoch"),
        (KEY_EPOCH, "", "is no epoch"),
        (KEY_EPOCH, "9007199254740992", "is no epoch"),
        (KEY_EPOCH, "18446744073709551615", "is no epoch"),
        (KEY_EPOCH, "18446744073709551616", "is no epoch"),
        (KEY_CREATED, "yesterday", "is no RFC 3339 time"),
        (ENDPOINTS, "192.0.2.1", "is no ip:port"),
        (ENDPOINTS, "192.0.2.1:0", "that others can reach"),
        (ENDPOINTS, "example.com:51830", "is no ip:port"),
        (ENDPOINTS, "[2001:db8::1%1]:51830", "that others can reach"),
        (ENDPOINTS, "127.0.0.1:1", "loopback range"),
        (ENDPOINTS, "[::1]:1", "loopback range"),
        (ENDPOINTS, "169.254.1.1:1", "link-local range"),
        (ENDPOINTS, "[fe80::1]:1", "link-local range"),
        (ENDPOINTS, "224.0.0.1:1", "multicast range"),
        (ENDPOINTS, "[ff02::1]:1", "multicast range"),
        (ENDPOINTS, "0.0.0.0:1", "unspecified range"),
        (ENDPOINTS, "[::]:1", "unspecified range"),
        (ENDPOINTS, "255.255.255.255:1", "broadcast range"),
        (ENDPOINTS, "[::ffff:127.0.0.1]:1", "IPv4-mapped range"),
        (ENDPOINTS, &nine, "lists more than 8"),
        (ENDPOINTS, "192.0.2.1:1,,192.0.2.2:1", "`` is no ip:port"),
        (POD_CIDRS, "0.0.0.0/0", "is a default route"),
        (POD_CIDRS, "::/0", "is a default route"),
        (POD_CIDRS, "10.244.1.1/24", "has host bits set"),
        (POD_CIDRS, "10.244.1.0", "is no prefix"),
        (POD_CIDRS, "127.0.0.0/8", "loopback range"),
        (POD_CIDRS, "10.1.0.0/24,10.2.0.0/24", "more than one prefix of a family"),
        (POD_CIDRS, "10.1.0.0/24,fd00::/64,10.2.0.0/24", "lists more than 2"),
        (NODE_ADDRESSES, "192.0.2.1/32", "is no IP address"),
        (NODE_ADDRESSES, "127.0.0.1", "loopback range"),
        (LOCATION, "a b", "is no word"),
        (FEATURES, "a,b,,c", "`` is no word"),
    ] {
        let errors = with(name, text).unwrap_err();
        assert_eq!(errors.len(), 1, "{name}={text}: {errors:?}");
        let error = errors[0].to_string();
        assert!(error.starts_with(&format!("{name}: ")) && error.contains(expected), "{text} gives {error}");
    }
    let mut texts = good();
    texts.remove(KEY_EPOCH);
    assert_eq!(parse(&texts).unwrap_err()[0].to_string(), "selvedge.dev/key-epoch: is missing");
}

#[test]
fn there_is_no_next_key_after_the_last_epoch() {
    let mut texts = good();
    texts.insert(KEY_EPOCH.into(), MAX_EPOCH.to_string());
    assert!(parse(&texts).is_ok());
    texts.insert(NEXT_PUBLIC_KEY.into(), key(2).to_string());
    assert!(parse(&texts).is_err());
}

/// What the policy lets through and agents do not read would lock the node out: its next write would not follow it.
#[test]
fn the_admission_policy_has_the_bound_of_the_parser() {
    let policy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/base/admission.yaml");
    let policy = std::fs::read_to_string(policy).unwrap();
    let digits = MAX_EPOCH.to_string().len() - 1;
    assert!(
        policy.contains(&format!("'^[1-9][0-9]{{0,{digits}}}$'")),
        "digits alone, as many as the bound has"
    );
    assert_eq!(
        policy.matches(&format!("<= {MAX_EPOCH}u")).count(),
        2,
        "of the epoch before and of the new one"
    );
}

#[test]
fn every_bad_value_is_reported_at_once() {
    let texts: BTreeMap<_, _> = NAMES.map(|name| (name.to_owned(), "\0".to_owned())).into();
    assert_eq!(parse(&texts).unwrap_err().len(), NAMES.len());
}

#[test]
fn lists_are_normalised() {
    let node = with(NODE_ADDRESSES, " 192.0.2.9 ,192.0.2.1,192.0.2.9").unwrap().unwrap();
    assert_eq!(node.node_addresses, ["192.0.2.1", "192.0.2.9"].map(|text| text.parse::<IpAddr>().unwrap()));
    let node = with(POD_CIDRS, "fd00::/64,10.1.0.0/24").unwrap().unwrap();
    assert_eq!(node.pod_cidrs[0], "10.1.0.0/24".parse().unwrap());
    assert_eq!(with(POD_CIDRS, "").unwrap().unwrap().pod_cidrs, []);
}

#[test]
fn a_megabyte_is_refused_by_its_length_and_in_few_words() {
    for pattern in ["x", ",", "10.0.0.1:1,", "\u{202e}", "A"] {
        let long = pattern.repeat((1 << 20) / pattern.len());
        let texts: BTreeMap<_, _> = NAMES.map(|name| (name.to_owned(), long.clone())).into();
        let errors = parse(&texts).unwrap_err();
        assert_eq!(errors.len(), NAMES.len());
        let too_long = Problem::TooLong { length: long.len(), most: MAX_VALUE };
        assert!(errors.iter().all(|error| error.problem == too_long), "nothing of it is read: {errors:?}");
        assert!(errors.iter().all(|error| error.to_string().len() < 120), "{errors:?}");
    }
}

#[test]
fn a_list_is_read_no_further_than_its_bound() {
    let problem = |text: &str| with(FEATURES, text).unwrap_err().remove(0).problem;
    let then_a_wrong_one = |count: usize| {
        let words = (0..count).map(|number| format!("w{number}")).chain(["a b".to_owned()]);
        problem(&words.collect::<Vec<_>>().join(","))
    };
    assert!(matches!(then_a_wrong_one(MAX_FEATURES - 1), Problem::Form { .. }));
    assert_eq!(then_a_wrong_one(MAX_FEATURES), Problem::TooMany(MAX_FEATURES), "the wrong one is not read");
    for text in ["x".repeat(MAX_VALUE), ",".repeat(MAX_VALUE)] {
        assert!(!matches!(problem(&text), Problem::TooLong { .. }), "as long as it may be");
    }
}

#[test]
fn the_patch_changes_own_annotations_alone() {
    let wanted = good();
    let mut current = good();
    current.insert("example.com/other".into(), "kept".into());
    current.insert("selvedge.dev/of-an-operator".into(), "kept".into());
    assert_eq!(merge_patch(&current, &wanted, "u", "5"), None);
    current.insert(NEXT_PUBLIC_KEY.into(), "old".into());
    current.insert(KEY_EPOCH.into(), "6".into());
    current.remove(LOCATION);
    let expected = serde_json::json!({ "metadata": {
        "uid": "u",
        "resourceVersion": "5",
        "annotations": { NEXT_PUBLIC_KEY: null, KEY_EPOCH: "7", LOCATION: "site-a" },
    }});
    assert_eq!(merge_patch(&current, &wanted, "u", "5"), Some(expected));
}

/// Feeds what fuzzing kept to the same checks as the fuzz target.
#[test]
fn the_fuzzing_corpus_holds() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/annotations");
    let mut inputs = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        check(&String::from_utf8_lossy(&bytes));
        inputs += 1;
    }
    assert!(inputs > 0, "no inputs in {corpus}");
}

fn check(text: &str) {
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
}

fn public_key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(|bytes| PrivateKey::from_bytes(bytes).public_key())
}

fn distinct_keys() -> impl Strategy<Value = (Keys, Option<Keys>)> {
    (proptest::collection::btree_set(public_key(), 4), any::<(bool, bool)>()).prop_map(
        |(keys, (next, lanes))| {
            let keys: Vec<_> = keys.into_iter().collect();
            let pair = |main: PublicKey, lane: PublicKey| Keys {
                public_key: main,
                lanes: if lanes { vec![lane] } else { vec![] },
            };
            (pair(keys[0], keys[1]), next.then(|| pair(keys[2], keys[3])))
        },
    )
}

prop_compose! {
    fn node()(
        (keys, next_keys) in distinct_keys(),
        key_epoch in 1..MAX_EPOCH,
        seconds in proptest::option::of(0i64..4_000_000_000),
        endpoints in proptest::collection::btree_set((1u8..250, 1u16..), 0..=MAX_ENDPOINTS),
        v4 in proptest::option::of(0u8..),
        v6 in proptest::option::of(0u16..),
        addresses in proptest::collection::btree_set(0u8.., 0..=MAX_NODE_ADDRESSES),
        location in proptest::option::of("[a-zA-Z0-9._-]{1,63}"),
        features in proptest::collection::btree_set("[a-z0-9=-]{1,20}", 0..5),
    ) -> NodeAnnotations {
        let v4 = v4.map(|third| format!("10.244.{third}.0/24").parse().unwrap());
        let v6 = v6.map(|third| format!("fd00:10:244:{third:x}::/64").parse().unwrap());
        NodeAnnotations {
            keys,
            next_keys,
            key_epoch,
            key_created: seconds.map(|seconds| Timestamp::from_second(seconds).unwrap()),
            endpoints: endpoints.into_iter().map(|(last, port)| ([192, 0, 2, last], port).into()).collect(),
            pod_cidrs: v4.into_iter().chain(v6).collect(),
            node_addresses: addresses.into_iter().map(|last| [192, 0, 2, last].into()).collect(),
            location,
            features: features.into_iter().collect(),
        }
    }
}

proptest! {
    #[test]
    fn what_is_rendered_is_read_back(node in node()) {
        prop_assert_eq!(parse(&render(&node)), Ok(Some(node)));
    }

    #[test]
    fn reading_never_panics(texts in proptest::collection::btree_map(
        proptest::sample::select(NAMES.to_vec()).prop_map(str::to_owned), "(\\PC|[0-9a-f:.,/=]|\\[|\\]){0,60}", 0..11
    )) {
        let _ = parse(&texts);
        let mut member = texts;
        member.insert(PUBLIC_KEY.into(), key(1).to_string());
        let _ = parse(&member);
    }

    #[test]
    fn a_changed_good_value_never_panics(
        name in proptest::sample::select(NAMES.to_vec()), at in 0usize..60, replacement in "\\PC{0,3}"
    ) {
        let mut text = good().get(name).cloned().unwrap_or_else(|| key(3).to_string());
        let at = text.char_indices().map(|(index, _)| index).nth(at).unwrap_or(text.len());
        text.insert_str(at, &replacement);
        let _ = with(name, &text);
    }

    #[test]
    fn lines_of_any_text_pass_the_fuzz_check(text in "((public-key|key-epoch|endpoints|pod-cidrs)=\\PC{0,50}\n){0,6}") {
        check(&text);
    }
}
