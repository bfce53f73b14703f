//! Installs what the tests need and the machine lacks.
//!
//! Only Debian packages, and only as root; anywhere else the missing programs are named, and the
//! tests do not start. Python packages of the examples are installed by the examples' own scripts.

use std::process::{Command, Stdio};

use crate::report::Outcome;

/// A program, how to see that it works, and the packages that bring it.
struct Need {
    name: &'static str,
    probe: &'static [&'static str],
    packages: &'static [&'static str],
    purpose: &'static str,
}

const NEEDS: &[Need] = &[
    Need {
        name: "python3 with pip",
        probe: &["python3", "-m", "pip", "--version"],
        packages: &["python3", "python3-pip"],
        purpose: "runs functions and installs the examples' packages",
    },
    Need {
        name: "strace",
        probe: &["strace", "-V"],
        packages: &["strace"],
        purpose: "shows that an answered write was synced",
    },
    Need {
        name: "curl",
        probe: &["curl", "--version"],
        packages: &["curl"],
        purpose: "runs the commands of the documents",
    },
    Need {
        name: "git",
        probe: &["git", "--version"],
        packages: &["git"],
        purpose: "lists the files of the examples",
    },
    Need {
        name: "bash",
        probe: &["bash", "--version"],
        packages: &["bash"],
        purpose: "runs the examples' scripts and the documents' commands",
    },
    Need {
        name: "node",
        probe: &["node", "--version"],
        packages: &["nodejs"],
        purpose: "runs the example in JavaScript",
    },
    Need {
        name: "g++",
        probe: &["g++", "--version"],
        packages: &["g++"],
        purpose: "compiles the example in C++",
    },
    Need {
        name: "iproute2",
        probe: &["ip", "-V"],
        packages: &["iproute2"],
        purpose: "makes the network namespaces of the tests' nodes",
    },
    Need {
        name: "nsenter",
        probe: &["nsenter", "--version"],
        packages: &["util-linux"],
        purpose: "starts the tests' nodes in their network namespaces",
    },
    Need {
        name: "busybox-static",
        probe: &["busybox", "true"],
        packages: &["busybox-static"],
        purpose: "is the shell in the images of the tests",
    },
    Need {
        name: "gcc",
        probe: &["gcc", "--version"],
        packages: &["gcc", "libc6-dev"],
        purpose: "compiles the server in the images of the tests",
    },
    Need {
        name: "runc",
        probe: &["runc", "--version"],
        packages: &["runc"],
        purpose: "runs containers as the platform's own are to run",
    },
    Need {
        name: "crun",
        probe: &["crun", "--version"],
        packages: &["crun"],
        purpose: "runs containers as the platform's own are to run",
    },
    Need {
        name: "socat",
        probe: &["socat", "-V"],
        packages: &["socat"],
        purpose: "runs the example in shell",
    },
    Need {
        name: "etcd",
        probe: &["etcd", "--version"],
        packages: &["etcd-server"],
        purpose: "is the store that platforms share",
    },
    Need {
        name: "etcdctl",
        probe: &["etcdctl", "version"],
        packages: &["etcd-client"],
        purpose: "gives the etcds of the tests users, alarms and keys of others",
    },
    Need {
        name: "docker-registry",
        probe: &["docker-registry", "--version"],
        packages: &["docker-registry"],
        purpose: "serves images to the tests",
    },
    Need {
        name: "htpasswd",
        probe: &["htpasswd", "-nbB", "name", "password"],
        packages: &["apache2-utils"],
        purpose: "makes the passwords of the registry that wants a login",
    },
    Need {
        name: "skopeo",
        probe: &["skopeo", "--version"],
        packages: &["skopeo"],
        purpose: "pushes an image, and is measured beside pulls",
    },
    Need {
        name: "umoci",
        probe: &["umoci", "--version"],
        packages: &["umoci"],
        purpose: "is measured beside the unpacking of images",
    },
];

/// Installs what is missing.
pub(crate) fn machine() -> Outcome {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !works(need.probe)).collect();
    if missing.is_empty() {
        return Outcome::passed();
    }
    let packages: Vec<_> = missing
        .iter()
        .flat_map(|need| need.packages)
        .copied()
        .collect();
    let installed = is_root() && works(&["apt-get", "--version"]) && install(&packages);
    let still: Vec<_> = missing.iter().filter(|need| !works(need.probe)).collect();
    if still.is_empty() {
        return Outcome::passed();
    }
    let list: Vec<_> = still
        .iter()
        .map(|need| format!("{} ({})", need.name, need.purpose))
        .collect();
    let hint = if installed {
        "apt-get did not bring it"
    } else {
        "not root, or no apt-get"
    };
    Outcome::failed(format!(
        "missing: {}; {hint}; install: {}",
        list.join(", "),
        packages.join(" ")
    ))
}

fn works(command: &[&str]) -> bool {
    let (program, arguments) = command.split_first().unwrap_or((&"false", &[]));
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn is_root() -> bool {
    // The owner of the process's own entry is its effective user.
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

fn install(packages: &[&str]) -> bool {
    println!("installing {}", packages.join(" "));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(["--quiet", "--yes"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
            .stdin(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    // A list that cannot be refreshed may still know the packages.
    apt(&["update"]);
    apt(&[&["install", "--no-install-recommends"], packages].concat())
}
