//! Tables for people: aligned columns, at most 80 characters wide.

/// Width that a terminal has at least.
const WIDTH: usize = 80;
const GAP: usize = 2;

/// Renders `rows` under `header`. The widest column is cut until the table fits 80 characters; numbers, the columns
/// listed in `right`, are aligned to the right.
#[must_use]
pub fn render(header: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let widths = widths(header, rows);
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    std::iter::once(&header).chain(rows).map(|row| line(row, &widths, right)).collect()
}

fn widths(header: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let column = |index: usize| rows.iter().filter_map(move |row| row.get(index));
    let mut widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(index, name)| {
            column(index).map(|cell| cell.chars().count()).max().unwrap_or(0).max(name.len())
        })
        .collect();
    let gaps = GAP * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > WIDTH {
        let Some(widest) = widths.iter_mut().max() else { break };
        *widest -= 1;
    }
    widths
}

fn line(row: &[String], widths: &[usize], right: &[usize]) -> String {
    let mut line = String::new();
    for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
        let cell = cut(cell, *width);
        let space = " ".repeat(width - cell.chars().count());
        let (before, after) =
            if right.contains(&index) { (space.as_str(), "") } else { ("", space.as_str()) };
        line += &format!("{before}{cell}{after}{}", " ".repeat(GAP));
    }
    line.trim_end().to_owned() + "\n"
}

fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
    kept + "…"
}

/// `text` with its control characters escaped: it may be of foreign bytes. White space stays.
#[must_use]
pub fn visible(text: &str) -> String {
    let escaped = |letter: char| match letter.is_control() && !letter.is_whitespace() {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// `text` in lines of at most `width` characters, broken between words, and within those that are longer.
#[must_use]
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for (index, piece) in letters.chunks(width.max(1)).enumerate() {
            let line = lines.last_mut().expect("there is a line from the start");
            let used = line.chars().count();
            let gap = usize::from(used > 0 && index == 0);
            if used + gap + piece.len() <= width && (index == 0 || used == 0) {
                line.extend(std::iter::repeat_n(' ', gap).chain(piece.iter().copied()));
            } else {
                lines.push(piece.iter().collect());
            }
        }
    }
    lines
}

/// Bytes with a binary unit, as `wg show` has them: `1.50 MiB`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_never_wider_than_80() {
        let long = "[2001:db8:1111:2222:3333:4444:5555:6666]:51830".repeat(2);
        let rows =
            vec![vec!["node1".into(), long, "12".into()], vec!["n".into(), "192.0.2.1:1".into(), "3".into()]];
        let text = render(&["NODE", "ENDPOINT", "RX"], &rows, &[2]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
        assert!(lines[1].ends_with("…  12") && lines[2].ends_with("   3"), "{text}");
    }

    #[test]
    fn text_is_wrapped_between_words_and_long_words_within() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a 0123456789 b", 4), ["a", "0123", "4567", "89 b"]);
        assert_eq!(wrap("", 4), [""]);
    }

    #[test]
    fn bytes_have_units() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(64 << 20), "64.0 MiB");
    }
}
