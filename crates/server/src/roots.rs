//! Which folders may hold function code.

use std::path::{Path, PathBuf};

use crate::config::ServerConfig;

/// The folders below which function code may live: the configured ones, else the folder in which
/// the platform was started (never `/`), and always `code` in the data folder.
pub(crate) fn code_roots(config: &ServerConfig) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = config
        .code_roots
        .iter()
        .map(|root| absolute(root))
        .collect();
    if roots.is_empty() {
        roots.extend(
            std::env::current_dir()
                .ok()
                .filter(|folder| folder != Path::new("/")),
        );
    }
    roots.push(absolute(&config.data_dir.join("code")));
    roots
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
