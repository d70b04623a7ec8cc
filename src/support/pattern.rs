//! What private keys and tokens of anybody look like. Each byte is looked at a fixed number of times, whatever is written.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::range::{REPLACEMENT, Range, widen};

/// Base64 as it may be cut out of something longer.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Longer than any name of a kind of key.
const NAME: usize = 64;

/// Notes every one.
pub(super) fn find(content: &[u8], found: &mut Vec<Range>) {
    plain(content, found);
    encoded(content, found);
}

fn plain(content: &[u8], found: &mut Vec<Range>) {
    pems(content, found);
    jwts(content, found);
    user_info(content, found);
    found.extend((0..content.len()).filter_map(|at| bootstrap_token(content, at)));
}

/// `-----BEGIN ... PRIVATE KEY-----`, of PGP too, to its end line, or to the end of all where that is cut off.
fn pems(content: &[u8], found: &mut Vec<Range>) {
    const BEGIN: &[u8] = b"-----BEGIN ";
    let mut at = 0;
    while let Some(from) = position(&content[at..], BEGIN).map(|start| at + start) {
        at = from + BEGIN.len();
        let line = &content[at..content.len().min(at + NAME)];
        if private_key(line).is_some() {
            at = end_of_pem(content, at);
            found.push((from, at));
        }
    }
}

/// Where a line with a private key's kind ends.
fn private_key(line: &[u8]) -> Option<usize> {
    const KEY: &[u8] = b"PRIVATE KEY";
    let rest = position(line, KEY)? + KEY.len();
    let tail = [&b"-----"[..], b" BLOCK-----"].into_iter().find(|tail| line[rest..].starts_with(tail))?;
    Some(rest + tail.len())
}

fn end_of_pem(content: &[u8], mut at: usize) -> usize {
    const END: &[u8] = b"-----END ";
    while let Some(start) = position(&content[at..], END) {
        at += start + END.len();
        if let Some(end) = private_key(&content[at..content.len().min(at + NAME)]) {
            return at + end;
        }
    }
    content.len()
}

/// Three words of base64 with dots between, of which the first ends in a JSON object (RFC 7519).
fn jwts(content: &[u8], found: &mut Vec<Range>) {
    /// No header and no claims are shorter.
    const PART: usize = 10;
    let words = words(content, is_url_safe);
    for pair in words.windows(2) {
        let [header, claims] = [pair[0], pair[1]];
        let dotted = |end: usize| content.get(end) == Some(&b'.');
        if claims.0 != header.1 + 1 || !dotted(header.1) || !dotted(claims.1) || claims.1 - claims.0 < PART {
            continue;
        }
        let start = position(&content[header.0..header.1], b"eyJ").map(|start| header.0 + start);
        if let Some(start) = start.filter(|start| header.1 - start >= PART) {
            let signed = claims.1 + 1;
            let next = words.partition_point(|word| word.0 < signed);
            let end = words.get(next).filter(|word| word.0 == signed).map_or(signed, |word| word.1);
            found.push((start, end));
        }
    }
}

/// The password in `://user:password@`.
fn user_info(content: &[u8], found: &mut Vec<Range>) {
    const SCHEME: &[u8] = b"://";
    for from in (SCHEME.len()..=content.len()).filter(|at| content[..*at].ends_with(SCHEME)) {
        let rest = &content[from..];
        let length =
            rest.iter().take_while(|byte| !byte.is_ascii_whitespace() && !b"/\"'".contains(byte)).count();
        let Some(at) = rest[..length].iter().rposition(|byte| *byte == b'@') else { continue };
        let Some(colon) = rest[..at].iter().position(|byte| *byte == b':') else { continue };
        let password = &rest[colon + 1..at];
        if !password.is_empty() && password != REPLACEMENT {
            found.push((from + colon + 1, from + at));
        }
    }
}

/// Private keys and tokens that are base64 once more, as a Secret has them: the whole word goes.
fn encoded(content: &[u8], found: &mut Vec<Range>) {
    for (from, to) in blocks(content) {
        let text: Vec<u8> =
            content[from..to].iter().filter(|byte| !byte.is_ascii_whitespace()).copied().collect();
        if (0..4).any(|shift| holds(&text[shift.min(text.len())..])) {
            found.push((from, to));
        }
    }
}

fn holds(text: &[u8]) -> bool {
    let standard = |byte: &u8| match byte {
        b'-' => b'+',
        b'_' => b'/',
        byte => *byte,
    };
    let text: Vec<u8> = text.iter().map(standard).collect();
    let whole = if text.len() % 4 == 1 { &text[..text.len() - 1] } else { &text[..] };
    let mut found = Vec::new();
    if let Ok(decoded) = LENIENT.decode(whole) {
        pems(&decoded, &mut found);
        jwts(&decoded, &mut found);
    }
    !found.is_empty()
}

/// Words of base64 that are long enough, those of lines that follow each other together.
fn blocks(content: &[u8]) -> Vec<Range> {
    /// As much as the shortest secret takes.
    const LEAST: usize = 32;
    /// What base64 is broken at, at least.
    const LINE: usize = 60;
    let mut blocks: Vec<Range> = Vec::new();
    let mut line = 0;
    for (from, to) in words(content, |byte| is_url_safe(byte) || byte == b'+' || byte == b'/') {
        match blocks.last_mut() {
            Some(last) if line >= LINE && is_break(&content[last.1..from]) => last.1 = to,
            _ => blocks.push((from, to)),
        }
        line = to - from;
    }
    blocks.retain(|(from, to)| to - from >= LEAST);
    blocks
}

/// The end of a line, and the indentation of the next.
fn is_break(between: &[u8]) -> bool {
    between.contains(&b'\n') && between.iter().all(u8::is_ascii_whitespace)
}

/// The longest ranges of characters of a kind, in order.
fn words(content: &[u8], kind: impl Fn(u8) -> bool) -> Vec<Range> {
    let mut words: Vec<Range> = Vec::new();
    for at in (0..content.len()).filter(|at| kind(content[*at])) {
        match words.last_mut() {
            Some(last) if last.1 == at => last.1 = at + 1,
            _ => words.push((at, at + 1)),
        }
    }
    words
}

/// A bootstrap token of kubeadm, `[a-z0-9]{6}.[a-z0-9]{16}`, with `at` on its dot. Numbers look alike, so it has letters.
fn bootstrap_token(content: &[u8], at: usize) -> Option<Range> {
    if content[at] != b'.' {
        return None;
    }
    let range = widen(content, (at, at + 1), |byte| byte.is_ascii_alphanumeric());
    let small = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let (id, secret) = (&content[range.0..at], &content[at + 1..range.1]);
    let shaped = id.len() == 6 && secret.len() == 16 && id.iter().chain(secret).all(small);
    let letters = secret.iter().any(u8::is_ascii_lowercase);
    (shaped && letters).then_some(range)
}

fn is_url_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// Where `what` begins first.
pub(super) fn position(text: &[u8], what: &[u8]) -> Option<usize> {
    let at = text.windows(what.len()).position(|window| window == what);
    #[cfg(test)]
    tests::looked_at(at.unwrap_or(text.len()));
    at
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use base64::engine::general_purpose;

    use super::*;

    thread_local! {
        /// Bytes that were searched through.
        static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
    }

    pub(in super::super) fn looked_at(bytes: usize) {
        LOOKED_AT.set(LOOKED_AT.get() + bytes);
    }

    /// What `find` finds in a text.
    pub(in super::super) fn found_by(find: fn(&[u8], &mut Vec<Range>), text: &str) -> Vec<&str> {
        let mut ranges = Vec::new();
        find(text.as_bytes(), &mut ranges);
        ranges.into_iter().map(|(from, to)| &text[from..to]).collect()
    }

    fn found(text: &str) -> Vec<&str> {
        found_by(find, text)
    }

    #[test]
    fn private_keys_in_pem_go_whole() {
        let key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----";
        assert_eq!(found(&format!("a {key}\n b")), [key]);
        let escaped = key.replace('\n', "\\n");
        assert_eq!(found(&format!("{{\"k\": \"{escaped}\"}}")), [escaped.as_str()]);
        let cut = "-----BEGIN PRIVATE KEY-----\nMHcCAQEE";
        assert_eq!(found(cut), [cut]);
        assert!(found("-----BEGIN CERTIFICATE-----\nMHcCAQEE\n-----END CERTIFICATE-----").is_empty());
    }

    #[test]
    fn tokens_go_and_words_with_dots_stay() {
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl";
        assert_eq!(found(&format!("token \"{jwt}\",")), [jwt]);
        assert!(found("eyJhbGciOiJSUzI1NiJ9 alone").is_empty());
        assert_eq!(found("join --token abcdef.0123456789abcdef now"), ["abcdef.0123456789abcdef"]);
        for text in ["worker.eu-central.example", "123456.1234567890123456", "xabcdef.0123456789abcdef"] {
            assert!(found(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn whatever_is_written_is_searched_a_few_times_only() {
        const SIZE: usize = 256 << 10;
        for part in [
            "eyJ",
            "eyJ.",
            "eyJeyJeyJeyJ.eyJeyJeyJeyJ.",
            "-----BEGIN PRIVATE KEY-----",
            "-----BEGIN ",
            "://a:",
            "token",
            "token=",
            "password=[redacted",
            "password: |\n  [redacted]",
        ] {
            LOOKED_AT.set(0);
            let text = part.repeat(SIZE / part.len());
            find(text.as_bytes(), &mut Vec::new());
            super::super::label::find(text.as_bytes(), &mut Vec::new());
            assert!(LOOKED_AT.get() <= 16 * SIZE, "{part}: {} bytes", LOOKED_AT.get());
        }
    }

    #[test]
    fn keys_of_pgp_and_what_is_in_base64_go() {
        let pgp = "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQ==\n-----END PGP PRIVATE KEY BLOCK-----";
        assert_eq!(found(&format!("{pgp} behind")), [pgp]);
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl";
        for secret in [pgp, jwt] {
            for before in ["", "a", "ab"] {
                let inner = general_purpose::STANDARD_NO_PAD.encode(format!("{before}{secret}"));
                assert_eq!(found(&format!("data: {inner}")), [&inner]);
            }
        }
        let long = general_purpose::STANDARD_NO_PAD.encode(pgp.replace("lQ==", &"lQ".repeat(100)));
        let lines: Vec<_> =
            long.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let wrapped = lines.join("\n    ");
        assert_eq!(found(&format!("tls.key: {wrapped}\n")), [&wrapped]);
        assert!(found(&general_purpose::STANDARD.encode([7; 300])).is_empty());
    }

    #[test]
    fn passwords_in_urls_go() {
        assert_eq!(found("proxy http://me:s3cr@t@192.0.2.1:3128/ up"), ["s3cr@t"]);
        for text in
            ["http://192.0.2.1:3128/@x", "https://[fd00::1]:6443", "://me@host", "://me:[redacted]@host"]
        {
            assert!(found(text).is_empty(), "{text}");
        }
    }
}
