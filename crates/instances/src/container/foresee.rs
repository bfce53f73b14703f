//! Whether this machine can run containers, found out before anybody asks for one.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::thread::UnshareFlags;

use super::config::{ContainerConfig, ContainerRuntime};
use super::netlink;
use crate::Measure;
use crate::confinement::starter::unshare;

/// What a platform with this configuration needs for containers, and whether it is here. Tries a
/// network of its own and changes nothing.
pub fn foresee(config: &ContainerConfig) -> Vec<Measure> {
    if !rustix::process::geteuid().is_root() {
        return vec![missing(
            "root",
            "containers need namespaces, mounts and control groups, so bugle has to run as root",
        )];
    }
    vec![layers(), runtime(config), outside()]
}

fn missing(name: &'static str, why: impl Into<String>) -> Measure {
    Measure {
        name,
        on: false,
        detail: why.into(),
    }
}

fn present(name: &'static str, what: impl Into<String>) -> Measure {
    Measure {
        name,
        on: true,
        detail: what.into(),
    }
}

fn layers() -> Measure {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.split_whitespace().any(|word| word == "overlay") {
        return present("layers", "overlayfs");
    }
    missing(
        "layers",
        "the kernel does not know overlayfs; load it with `modprobe overlay`",
    )
}

fn runtime(config: &ContainerConfig) -> Measure {
    if config.runtime == ContainerRuntime::Native {
        return present("runtime", "native");
    }
    let command = &config.oci_command;
    match find(command) {
        Some(path) => present("runtime", path.display().to_string()),
        None => missing(
            "runtime",
            format!(
                "there is no {}; install it (`apt-get install runc`), name another one in \
                 containers.oci_command, or set containers.runtime to native",
                command.display()
            ),
        ),
    }
}

/// Where a command is.
pub(super) fn find(command: &Path) -> Option<PathBuf> {
    if command.components().count() > 1 {
        return command.is_file().then(|| command.to_owned());
    }
    // Where the cell looks for it, which does not have the platform's environment.
    super::search::DEFAULT_PATH
        .split(':')
        .map(|folder| Path::new(folder).join(command))
        .find(|path| path.is_file())
}

/// Makes an island of a network that goes with its thread.
fn outside() -> Measure {
    let island = std::thread::spawn(|| {
        unshare(UnshareFlags::NEWNET.bits())?;
        netlink::raise_loopback()
            .and_then(|()| netlink::make_island(1))
            .map_err(|error| error.to_string())
    });
    match island.join() {
        Ok(Ok(())) => present("outside", "connections are taken over by the platform"),
        Ok(Err(error)) => missing(
            "outside",
            format!(
                "connections of containers cannot be taken over ({error}); the kernel needs \
                 nf_tables with redirections (nft_redir), or functions without network"
            ),
        ),
        Err(_) => missing("outside", "it could not be tried"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_is_not_there_is_told_with_what_to_do() {
        let config = ContainerConfig {
            runtime: ContainerRuntime::Oci,
            oci_command: "no-such-runtime".into(),
            ..ContainerConfig::default()
        };
        let measure = runtime(&config);
        assert!(
            !measure.on && measure.detail.contains("install"),
            "{measure:?}"
        );
        assert!(runtime(&ContainerConfig::default()).on);
    }

    #[test]
    fn what_the_machine_has_is_found() {
        for measure in foresee(&ContainerConfig::default()) {
            let without_root = measure.name == "root";
            assert!(measure.on || without_root, "{measure:?}");
        }
    }
}
