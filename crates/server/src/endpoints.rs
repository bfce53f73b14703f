//! `endpoints.json` in the data folder: where a running platform listens.
//!
//! Written when the platform takes requests and removed when it stops, so that tools (and tests that
//! ask for port 0) find it without parsing a log.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The file; removed when dropped.
#[derive(Debug)]
pub(crate) struct Endpoints {
    path: PathBuf,
}

impl Endpoints {
    /// Writes the file, all of it or nothing.
    pub(crate) fn write(
        folder: &Path,
        control: SocketAddr,
        gateway: SocketAddr,
    ) -> std::io::Result<Self> {
        let path = folder.join("endpoints.json");
        let text = serde_json::json!({
            "control": control, "gateway": gateway, "pid": std::process::id(),
        });
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        writeln!(file, "{text}")?;
        file.persist(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        // Left behind, it names a port on which nobody answers: harmless.
        let _ = std::fs::remove_file(&self.path);
    }
}
