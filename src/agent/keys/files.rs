//! What of the rotation is on disk: the one that runs, and the one that ended last.

use std::io;
use std::path::{Path, PathBuf};

use selvedge_keys::durable;
use selvedge_keys::rotation::Rotation;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Ended;
use crate::paths::Paths;

/// Most bytes of a file.
const LARGEST: u64 = 64 * 1024;

/// A file cannot be written or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub(in crate::agent) struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

#[derive(Debug)]
pub(super) struct Files {
    running: PathBuf,
    last: PathBuf,
}

impl Files {
    pub(super) fn new(paths: &Paths) -> Self {
        Self { running: paths.rotation(), last: paths.last_rotation() }
    }

    /// The rotation that runs.
    pub(super) fn running(&self) -> Option<Rotation> {
        read(&self.running).unwrap_or_else(|error| {
            tracing::error!(
                file = %self.running.display(), error,
                "the file of the key rotation is damaged: the rotation ends, and the key in use stays"
            );
            None
        })
    }

    /// The rotation that ended last.
    pub(super) fn last(&self) -> Option<Ended> {
        read(&self.last).unwrap_or_else(|error| {
            tracing::warn!(
                file = %self.last.display(), error,
                "the file of the last key rotation is damaged: how it ended is in the audit log alone"
            );
            None
        })
    }

    /// Writes the rotation that runs.
    pub(super) fn save(&self, rotation: &Rotation) -> Result<(), FileError> {
        write(&self.running, rotation)
    }

    /// The rotation is over. Interrupted in between, the last step is taken again.
    pub(super) fn end(&self, ended: &Ended) -> Result<(), FileError> {
        write(&self.last, ended)?;
        let removed = match std::fs::remove_file(&self.running) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| durable::sync_folder(&self.running)),
        };
        removed.map_err(|source| FileError { action: "remove", path: self.running.clone(), source })
    }
}

fn write(file: &Path, value: &impl Serialize) -> Result<(), FileError> {
    // It cannot fail: every value here has a JSON form.
    let text = serde_json::to_vec(value).unwrap_or_default();
    let written = durable::write(file, 0o600, &text);
    written.map_err(|source| FileError { action: "write", path: file.to_owned(), source })
}

/// None without a file.
fn read<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, String> {
    match std::fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(it) if it.len() > LARGEST => return Err(format!("{} bytes", it.len())),
        Ok(_) => {}
        Err(error) => return Err(error.to_string()),
    }
    let text = std::fs::read(file).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map(Some).map_err(|error| error.to_string())
}
