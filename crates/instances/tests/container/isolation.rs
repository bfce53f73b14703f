//! Attempts to get out of a container, each made from inside, with every runtime of this machine.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use bugle_instances::StartError;

use crate::support::{Machine, Running, natively, on_every_runtime, wanted};

/// What the kernel says to who may not.
const REFUSALS: [&str; 9] = [
    "not permitted",
    "ermission denied",
    "ead-only",
    "not implemented",
    "o such file",
    "o such device",
    "not supported",
    "can't open",
    "nonexistent",
];

async fn is_refused(running: &Running, script: &str) {
    let said = running.run(script).await;
    assert!(!said.contains("done"), "{script}: {said}");
    let refused = REFUSALS.iter().any(|refusal| said.contains(refusal));
    assert!(refused, "{script}: {said:?}");
}

#[test]
fn calls_of_the_kernel_that_lead_out_are_refused() {
    on_every_runtime(async |machine| {
        let running = machine.usual().await;
        for what in [
            "mount",
            "bind",
            "remount",
            "umount",
            "fsopen",
            "move_mount",
            "pivot_root",
            "chroot",
            "unshare-user",
            "unshare-mount",
            "clone-user",
            "setns",
            "mknod-disk",
            "mknod-memory",
            "init_module",
            "kexec_load",
            "bpf",
            "perf",
            "userfaultfd",
            "io_uring",
            "add_key",
            "handle",
            "setuid",
            "setgid",
            "capset",
            "packet",
            "raw",
            "vsock",
            "alg",
            "reboot",
            "sethostname",
            "settimeofday",
            "swapon",
            "syslog",
            "acct",
            "tiocsti",
            "iopl",
        ] {
            is_refused(&running, &format!("/probe {what}")).await;
        }
    });
}

#[test]
fn the_machines_switches_cannot_be_reached() {
    on_every_runtime(async |machine| {
        let running = machine.usual().await;
        for path in [
            "/proc/sysrq-trigger",
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/hostname",
            "/proc/sys/vm/drop_caches",
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/irq/default_smp_affinity",
            "/sys/kernel/uevent_helper",
            "/sys/power/state",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/release_agent",
            "/sys/fs/cgroup/memory/cgroup.procs",
            "/sys/fs/cgroup/pids/pids.max",
            "/dev/kmsg",
            "/dev/mem",
            "/etc/hosts",
            "/server",
        ] {
            is_refused(&running, &format!("echo 1 >{path} && echo done")).await;
        }
        let memory = running
            .run("cat /proc/kcore 2>/dev/null | wc -c; ls /sys/firmware 2>/dev/null")
            .await;
        assert_eq!(memory, "0");
        let keys = running
            .run("cat /proc/keys /proc/timer_list /proc/interrupts 2>/dev/null | wc -c")
            .await;
        assert_eq!(keys, "0");
        let devices = running
            .run("find /dev -type b; find /dev -type c | wc -l")
            .await;
        // null, zero, full, random, urandom, tty, the two of terminals and perhaps a console.
        assert!(devices.lines().count() == 1, "{devices}");
        assert!(devices.trim().parse::<u32>().unwrap() <= 8, "{devices}");
    });
}

#[test]
fn nobody_becomes_root_by_a_program_of_the_image() {
    on_every_runtime(async |machine| {
        let layer = machine.layer("setuid", |layer| {
            crate::support::fill_usual(layer);
            std::fs::create_dir(layer.join("rooted")).unwrap();
            let rooted = layer.join("rooted/busybox");
            std::fs::copy(layer.join("bin/busybox"), &rooted).unwrap();
            let mode = std::fs::Permissions::from_mode(0o6755);
            std::fs::set_permissions(rooted, mode).unwrap();
        });
        machine.shelve("setuid", &[layer], |_| {});
        let mut wanted = wanted();
        wanted.spec.image = "setuid".to_owned();
        let running = machine.start(wanted).await;
        assert_eq!(running.run("/rooted/busybox id -u").await, "1003");
    });
}

#[test]
fn the_machine_is_out_of_sight() {
    on_every_runtime(async |machine| {
        let neighbour = machine.usual().await;
        let running = machine.usual().await;
        let secret = machine.folder.path().join("secret");
        std::fs::write(&secret, "the machine's").unwrap();
        let said = running
            .run(&format!("cat {0} /proc/1/root{0}", secret.display()))
            .await;
        assert!(!said.contains("the machine's"), "{said}");
        // Its own processes alone: the server, who serves this call, and the script's.
        let processes = running.run("ls /proc | grep -c '^[0-9]'").await;
        assert!(processes.parse::<u32>().unwrap() <= 8, "{processes}");
        let mounts = running.run("cut -d' ' -f2 /proc/mounts").await;
        let own = ["/", "/proc", "/sys", "/dev", "/etc", "/tmp"];
        for point in mounts.lines() {
            let known = own
                .iter()
                .any(|own| point == *own || point.starts_with(&format!("{own}/")) && *own != "/");
            assert!(known, "{point}");
        }
        let pid = neighbour.0.pid().unwrap();
        is_nobody(&running.run(&format!("kill -9 {pid} && echo done")).await);
        neighbour.run("true").await;
    });
}

fn is_nobody(said: &str) {
    assert!(said.contains("No such process"), "{said}");
}

#[test]
fn the_machines_network_is_out_of_reach() {
    on_every_runtime(async |machine| {
        let running = machine.usual().await;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let name = format!("bugle-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let _socket = UnixListener::bind_addr(&address).unwrap();
        for script in [
            format!("nc -w 1 127.0.0.1 {port} </dev/null && echo done"),
            "nc -w 1 169.254.169.254 80 </dev/null && echo done".to_owned(),
            "ip link add x type dummy && echo done".to_owned(),
            "ip link set lo down && echo done".to_owned(),
            "ip route add default dev lo && echo done".to_owned(),
            format!("/probe abstract {name}"),
        ] {
            let said = running.run(&script).await;
            assert!(!said.contains("done"), "{script}: {said}");
        }
        assert_eq!(running.run("ls /sys/class/net").await, "lo");
    });
}

#[test]
fn nothing_that_the_platform_has_open_gets_in() {
    on_every_runtime(async |machine| {
        let mut wanted = wanted();
        wanted.spec.command = vec!["/bin/sh".to_owned()];
        let script = "ls -l /proc/self/fd >/tmp/open; exec /server";
        wanted.spec.args = vec!["-c".to_owned(), script.to_owned()];
        let running = machine.start(wanted).await;
        let open = running.run("grep -o '[0-9]* -> .*' /tmp/open").await;
        for line in open.lines() {
            let usual = [
                "0 -> /dev/null",
                "0 -> pipe:",
                "1 -> /tmp/open",
                "2 -> pipe:",
            ];
            let listing = line.contains("/proc/");
            assert!(
                listing || usual.iter().any(|one| line.starts_with(one)),
                "{open}"
            );
        }
    });
}

#[test]
fn no_descriptor_is_a_way_out_as_the_working_directory() {
    natively(async |machine| {
        for number in 3..12 {
            let mut wanted = wanted();
            wanted.spec.working_dir = Some(format!("/proc/self/fd/{number}"));
            if let Ok(running) = machine.try_start(wanted).await {
                let seen = running.run("ls / ../ ../../../../../..").await;
                assert!(!seen.contains("containers"), "{seen}");
            }
        }
    });
}

fn image(
    machine: &Machine,
    name: &str,
    change: impl FnOnce(&std::path::Path),
) -> crate::support::Wanted {
    let layer = machine.layer(name, |layer| {
        crate::support::fill_usual(layer);
        change(layer);
    });
    machine.shelve(name, &[layer], |_| {});
    let mut wanted = wanted();
    name.clone_into(&mut wanted.spec.image);
    wanted
}

#[test]
fn links_in_the_image_lead_nowhere_else() {
    natively(async |machine| {
        let outside = machine.folder.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let target = outside.clone();
        let wanted = image(&machine, "linked", |layer| {
            std::fs::remove_dir_all(layer.join("etc")).unwrap();
            let up = format!("../../../../../../../..{}", target.display());
            std::os::unix::fs::symlink(up, layer.join("etc")).unwrap();
        });
        // It cannot start, as its directory is not there, or it starts and has it inside.
        if let Ok(running) = machine.try_start(wanted).await {
            running.run("true").await;
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        for name in ["proc", "sys", "dev"] {
            let wanted = image(&machine, &format!("no-{name}"), |layer| {
                std::os::unix::fs::symlink("/tmp", layer.join(name)).unwrap();
            });
            let failed = machine.try_start(wanted).await.unwrap_err();
            assert!(matches!(failed, StartError::NotRunnable(_)), "{failed:?}");
            assert!(
                failed.to_string().contains("is not a directory"),
                "{failed}"
            );
        }
    });
}

#[test]
fn processes_are_bounded_and_the_neighbour_does_not_notice() {
    natively(async |machine| {
        let neighbour = machine.usual().await;
        let running = machine.usual().await;
        let bomb = "i=0; while [ $i -lt 1100 ]; do sleep 30 & i=$((i+1)); done; echo 1100 of them";
        let call = tokio::time::timeout(Duration::from_secs(30), running.call(bomb));
        // It may run out of memory first, for which it is ended.
        if let Ok(Ok(said)) = call.await {
            assert!(said.contains("can't fork"), "{said}");
        }
        assert_eq!(neighbour.call("").await.unwrap(), "Hello invoke\n");
    });
}

#[test]
fn a_directory_of_the_machine_is_seen_as_the_operator_says() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["models", "scratch"] {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file"), name).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let mut mounts = std::collections::BTreeMap::new();
    for (name, writable) in [("models", false), ("scratch", true)] {
        let path = folder.path().join(name);
        mounts.insert(
            name.to_owned(),
            bugle_instances::HostDirectory { path, writable },
        );
    }
    crate::support::on_every_runtime_with(
        &|config| config.mounts = mounts.clone(),
        async |machine| {
            let mut wanted = wanted();
            for name in ["models", "scratch"] {
                wanted.spec.mounts.push(bugle_types::Mount {
                    name: name.to_owned(),
                    target: format!("/mnt/{name}"),
                });
            }
            let running = machine.start(wanted).await;
            assert_eq!(
                running.run("cat /mnt/models/file /mnt/scratch/file").await,
                "modelsscratch"
            );
            is_refused(&running, "touch /mnt/models/new && echo done").await;
            assert_eq!(
                running
                    .run("echo mine >/mnt/scratch/new && cat /mnt/scratch/new")
                    .await,
                "mine"
            );
        },
    );
}
