//! A bundle as a compressed tar file or as a folder, for its owner alone.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::Bundle;

/// What could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}{}", path.display(), remedy(source))]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AlreadyExists => "; choose another --output, nothing is overwritten",
        _ => "",
    }
}

/// Whether `path` names a compressed tar file; else it names a folder.
#[must_use]
pub fn is_archive(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.ends_with(".tar.gz") || name.ends_with(".tgz")
    })
}

/// Writes the bundle to `path`, which must not be there yet.
///
/// # Errors
/// [`Error`]; then there may be a part of it.
pub fn write(bundle: &Bundle, path: &Path) -> Result<(), Error> {
    let written = if is_archive(path) { archive(bundle, path) } else { folder(bundle, path) };
    written.map_err(|source| Error { path: path.into(), source })
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn folder(bundle: &Bundle, path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    for (name, content) in &bundle.files {
        create(&path.join(name))?.write_all(content)?;
    }
    Ok(())
}

fn archive(bundle: &Bundle, path: &Path) -> io::Result<()> {
    compressed(bundle, create(path)?)?.sync_all()
}

/// Writes the bundle to `to` as a compressed tar file, and gives it back.
///
/// # Errors
/// As `to` has them.
pub fn compressed<W: Write>(bundle: &Bundle, to: W) -> io::Result<W> {
    tar(bundle, GzEncoder::new(to, Compression::default()))?.finish()
}

fn tar<W: Write>(bundle: &Bundle, to: W) -> io::Result<W> {
    let mut tar = tar::Builder::new(to);
    let time = u64::try_from(bundle.manifest.created.as_second()).unwrap_or(0);
    for (name, content) in &bundle.files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(time);
        tar.append_data(&mut header, Path::new(&bundle.name).join(name), content.as_slice())?;
    }
    tar.into_inner()
}
