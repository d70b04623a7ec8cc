//! Lines of a file of the log, read in bounded memory, and the names of those files.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::entry::MAX_LINE;
use super::sum::Sha256Sum;

/// One line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its first `MAX_LINE + 1` bytes at most, without the newline.
    pub(crate) bytes: Vec<u8>,
    /// Hash of all its bytes, without the newline.
    pub(crate) sum: Sha256Sum,
    /// Number of the line in the file, from 1.
    pub(crate) place: u64,
    /// Where in the file it begins.
    pub(crate) offset: u64,
    /// Its bytes in the file, with the newline.
    pub(crate) length: u64,
    /// Whether it ends with a newline.
    pub(crate) complete: bool,
}

/// Reads the lines of one file, however long they are.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    source: BufReader<R>,
    place: u64,
    offset: u64,
    /// Whether the end was reached. Nothing is read after it, even if the writer has appended meanwhile: the rest of
    /// a line must not look like a line.
    ended: bool,
}

impl<R: Read> Lines<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source: BufReader::with_capacity(64 << 10, source), place: 0, offset: 0, ended: false }
    }

    fn read(&mut self) -> io::Result<Option<Line>> {
        let (mut bytes, mut hasher) = (Vec::new(), Sha256::new());
        let (mut length, mut complete) = (0, false);
        while !complete && !self.ended {
            let chunk = match self.source.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                chunk => chunk?,
            };
            if chunk.is_empty() {
                self.ended = true;
                break;
            }
            let newline = chunk.iter().position(|byte| *byte == b'\n');
            let part = &chunk[..newline.unwrap_or(chunk.len())];
            hasher.update(part);
            bytes.extend_from_slice(&part[..part.len().min(MAX_LINE + 1 - bytes.len())]);
            complete = newline.is_some();
            let used = part.len() + usize::from(complete);
            length += used as u64;
            self.source.consume(used);
        }
        if length == 0 {
            return Ok(None);
        }
        let offset = self.offset;
        (self.place, self.offset) = (self.place + 1, offset + length);
        Ok(Some(Line { bytes, sum: Sha256Sum::finish(hasher), place: self.place, offset, length, complete }))
    }
}

impl<R: Read> Iterator for Lines<R> {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<io::Result<Line>> {
        self.read().transpose()
    }
}

/// The file whose first line has `number`.
pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("audit-{number:020}.jsonl"))
}

/// Numbers of the first lines of all files of the log in `dir`, ascending. Other files are ignored.
pub(crate) fn segments(dir: &Path) -> io::Result<Vec<u64>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir)? {
        segments.extend(segment_number(&entry?.file_name().to_string_lossy()));
    }
    segments.sort_unstable();
    Ok(segments)
}

fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
    let plain = digits.len() == 20 && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|number| plain && *number > 0)
}

/// Hash of the last line of `file` that ends with a newline; None if there is none.
pub(crate) fn last_sum(file: File) -> io::Result<Option<Sha256Sum>> {
    let mut last = None;
    for line in Lines::new(file) {
        let line = line?;
        if line.complete {
            last = Some(line.sum);
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_take_bounded_memory_and_are_hashed_whole() {
        let long = vec![b'x'; 1 << 20];
        let text = [b"short\n\n".as_slice(), &long, b"\nend"].concat();
        let lines: Vec<Line> = Lines::new(text.as_slice()).map(Result::unwrap).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!((lines[0].bytes.as_slice(), lines[0].offset), (b"short".as_slice(), 0));
        assert_eq!((lines[1].bytes.as_slice(), lines[1].offset), (b"".as_slice(), 6));
        assert_eq!((lines[2].bytes.len(), lines[2].sum), (MAX_LINE + 1, Sha256Sum::of(&long)));
        assert_eq!((lines[3].place, lines[3].offset), (4, 8 + (1 << 20)));
        assert!(lines[2].complete && !lines[3].complete);
    }

    #[test]
    fn what_is_appended_after_the_end_was_reached_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one\ntw").unwrap();
        let mut lines = Lines::new(File::open(&path).unwrap());
        assert!(lines.next().unwrap().unwrap().complete);
        assert!(!lines.next().unwrap().unwrap().complete);
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert!(lines.next().is_none());
    }

    #[test]
    fn only_names_of_the_log_are_taken() {
        let path = segment_path(Path::new("/d"), 12);
        assert_eq!(path, Path::new("/d/audit-00000000000000000012.jsonl"));
        assert_eq!(segment_number("audit-00000000000000000012.jsonl"), Some(12));
        for name in [
            "audit-12.jsonl",
            "audit-00000000000000000000.jsonl",
            "audit-+0000000000000000012.jsonl",
            "audit-99999999999999999999.jsonl",
            "audit-00000000000000000012.jsonl.bak",
        ] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
