//! Whether this machine can run containers, found out before anybody asks for one.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::thread::UnshareFlags;

use super::config::{ContainerConfig, ContainerRuntime};
use super::netlink;
use crate::confinement::starter::unshare;

/// One thing that containers need of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// What it is, for instance `layers`.
    pub name: &'static str,
    /// What there is of it, or what is missing.
    pub found: Result<String, Lack>,
}

/// What is missing for containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// What is not there.
    pub what: String,
    /// How it is got.
    pub fix: String,
}

/// What a platform with this configuration and this data folder needs for containers, and whether it
/// is here. Tries a network of its own and changes nothing.
pub fn foresee(config: &ContainerConfig, data: &Path) -> Vec<Need> {
    if !rustix::process::geteuid().is_root() {
        return vec![missing(
            "root",
            "container images need root: their namespaces, mounts and control groups are made by it",
            "start the platform as root (`sudo bugle serve`); functions in Python and programs run \
             without",
        )];
    }
    vec![layers(), place(data), runtime(config), outside()]
}

fn missing(name: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Need {
    let lack = Lack {
        what: what.into(),
        fix: fix.into(),
    };
    Need {
        name,
        found: Err(lack),
    }
}

fn present(name: &'static str, what: impl Into<String>) -> Need {
    Need {
        name,
        found: Ok(what.into()),
    }
}

fn layers() -> Need {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.split_whitespace().any(|word| word == "overlay") {
        return present("layers", "overlayfs");
    }
    missing(
        "layers",
        "the kernel does not know overlayfs, which puts the layers of an image together",
        "load it with `modprobe overlay`",
    )
}

/// Whether what containers write can lie in this folder.
fn place(data: &Path) -> Need {
    const OVERLAYFS: u64 = 0x794c_7630;
    let existing = data.ancestors().find(|path| path.is_dir());
    let kind = rustix::fs::statfs(existing.unwrap_or_else(|| Path::new("/")));
    // The width of the type is the machine's, and its sign.
    if kind.is_ok_and(|kind| u64::try_from(kind.f_type) == Ok(OVERLAYFS)) {
        return missing(
            "place",
            format!(
                "{} is on overlayfs itself, to which another overlayfs cannot write",
                data.display()
            ),
            "put the data folder on ext4 or XFS with --data-dir; inside a container that is a volume",
        );
    }
    present("place", format!("{} takes what they write", data.display()))
}

fn runtime(config: &ContainerConfig) -> Need {
    if config.runtime == ContainerRuntime::Native {
        return present("runtime", "native");
    }
    let command = &config.oci_command;
    match find(command) {
        Some(path) => present("runtime", path.display().to_string()),
        None => missing(
            "runtime",
            format!("there is no OCI runtime {}", command.display()),
            "install it (`apt-get install runc` or `crun`), name another one in \
             containers.oci_command, or set containers.runtime to native",
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
fn outside() -> Need {
    let island = std::thread::spawn(|| {
        unshare(UnshareFlags::NEWNET.bits())?;
        netlink::raise_loopback()
            .and_then(|()| netlink::make_island(1))
            .map_err(|error| error.to_string())
    });
    let why = match island.join() {
        Ok(Ok(())) => {
            return present("outside", "connections are taken over by the platform");
        }
        Ok(Err(error)) => error,
        Err(_) => "it could not be tried".to_owned(),
    };
    missing(
        "outside",
        format!("connections of containers cannot be taken over: {why}"),
        "load nf_tables with redirections (`modprobe nf_tables nft_redir`), or give functions no \
         network (disable_public_network)",
    )
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
        let lack = runtime(&config).found.unwrap_err();
        assert!(lack.what.contains("no-such-runtime"), "{lack:?}");
        assert!(lack.fix.contains("apt-get install"), "{lack:?}");
        assert!(runtime(&ContainerConfig::default()).found.is_ok());
    }

    #[test]
    fn what_the_machine_has_is_found() {
        for need in foresee(&ContainerConfig::default(), &std::env::temp_dir()) {
            let without_root = need.name == "root";
            assert!(need.found.is_ok() || without_root, "{need:?}");
        }
    }
}
