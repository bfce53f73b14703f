//! What an instance tries and may not do.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use bugle_instances::{CallError, ConfinementConfig, ExitCause, Network};
use bugle_types::Runtime;

use crate::processes::{gone, outside};
use crate::support::{Machine, interpreters, on_old_and_new};

/// Whether this test can say anything; tells loudly when not.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: only root can confine instances fully, and this is not root");
    }
    root
}

/// Runs statements and tells how each ended: `done`, or the name of the error.
const PROBE: &str = r"
import ctypes, errno, fcntl, os, platform, resource, socket, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() == 'aarch64'

def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), 'refused')
    return result

def call(number, *arguments):
    if isinstance(number, tuple):
        number = number[ARM]
    check(libc.syscall(number, *arguments))

def read(path):
    with open(path, 'rb') as file:
        return file.read(1)

def write(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT))

def connect(family, address):
    with socket.socket(family) as one:
        one.settimeout(5)
        one.connect(address)

def outcome(statement):
    try:
        exec(statement, globals())
        return 'done'
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    except BaseException as error:
        return type(error).__name__ + ': ' + str(error)

def handler(event, context):
    return {statement: outcome(statement) for statement in event}
";

/// Tries the statements in an instance on `machine`; every one has to end as is written beside it.
async fn try_all(machine: &Machine, attempts: &[(&str, &[&str])]) {
    let instance = machine.start(PROBE).await.unwrap();
    let statements: Vec<&str> = attempts.iter().map(|(statement, _)| *statement).collect();
    let event = serde_json::to_string(&statements).unwrap();
    let outcomes: BTreeMap<String, String> =
        serde_json::from_str(&instance.answer(&event).await).unwrap();
    let wrong: Vec<String> = attempts
        .iter()
        .filter(|(statement, expected)| !expected.contains(&outcomes[*statement].as_str()))
        .map(|(statement, expected)| {
            format!(
                "{statement}: {}, not one of {expected:?}",
                outcomes[*statement]
            )
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

const FILES: &[(&str, &[&str])] = &[
    ("read('/etc/shadow')", &["ENOENT"]),
    ("read('/root/.bashrc')", &["ENOENT"]),
    ("os.listdir('/home')", &["ENOENT"]),
    ("os.listdir('/sys')", &["ENOENT"]),
    ("os.listdir('/run')", &["ENOENT"]),
    ("read('/proc/1/root/etc/shadow')", &["ENOENT"]),
    (
        "read('/proc/self/cwd/../../../../../../etc/shadow')",
        &["ENOENT"],
    ),
    ("write('/new')", &["EROFS"]),
    ("write('/usr/lib/new')", &["EROFS", "EACCES"]),
    ("write('/etc/passwd')", &["EROFS", "EACCES"]),
    ("write('/dev/new')", &["EROFS", "EACCES"]),
    (
        "write(os.environ['RUNTIME_CODE_ROOT'] + '/new')",
        &["EROFS"],
    ),
    (
        "os.unlink(os.environ['RUNTIME_CODE_ROOT'] + '/main.py')",
        &["EROFS"],
    ),
    (
        "os.symlink('/x', os.path.dirname(os.environ['RUNTIME_CODE_ROOT']) + '/x')",
        &["EACCES"],
    ),
    (
        "write('/proc/sys/kernel/core_pattern')",
        &["EROFS", "EACCES"],
    ),
    (
        "write('/proc/sysrq-trigger')",
        &["EROFS", "EACCES", "ENOENT"],
    ),
    ("write('/proc/self/oom_score_adj')", &["EROFS"]),
    ("write('/proc/self/uid_map')", &["EROFS"]),
    ("read('/proc/kcore')", &["EACCES", "EPERM", "ENOENT"]),
    ("read('/proc/kmsg')", &["EACCES", "EPERM", "ENOENT"]),
    ("read('/sys/fs/cgroup/memory/release_agent')", &["ENOENT"]),
    ("read('/dev/mem')", &["ENOENT"]),
    ("read('/dev/vda')", &["ENOENT"]),
    ("read('/dev/sda')", &["ENOENT"]),
    ("read('/dev/kmsg')", &["ENOENT"]),
    ("read('/dev/tty')", &["ENOENT"]),
    ("read('/dev/ptmx')", &["ENOENT"]),
    (
        "os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0))",
        &["EPERM"],
    ),
    (
        "os.mknod('/tmp/null', 0o20600, os.makedev(1, 3))",
        &["EPERM"],
    ),
    ("write('/tmp/own'); os.chown('/tmp/own', 0, 0)", &["EPERM"]),
    ("os.chmod('/usr/bin/env', 0o4755)", &["EROFS", "EPERM"]),
    ("connect(socket.AF_UNIX, '/run/docker.sock')", &["ENOENT"]),
    (
        "connect(socket.AF_UNIX, '/var/run/docker.sock')",
        &["ENOENT"],
    ),
    // What is meant to work.
    ("write('/tmp/new')", &["done"]),
    ("write('/dev/shm/new')", &["done"]),
    ("write('/dev/null')", &["done"]),
    ("read('/dev/urandom')", &["done"]),
    ("read('/proc/self/status')", &["done"]),
    ("subprocess.check_call(['true'])", &["done"]),
    ("socket.socketpair()", &["done"]),
];

const RIGHTS: &[(&str, &[&str])] = &[
    ("os.setuid(0)", &["EPERM"]),
    ("os.setgid(0)", &["EPERM"]),
    ("os.setgroups([0])", &["EPERM"]),
    ("os.setresuid(1002, 1002, 1002)", &["EPERM"]),
    (
        "check(libc.capset(struct.pack('<Ii', 0x20080522, 0), b'\\xff' * 24))",
        &["EPERM"],
    ),
    ("check(libc.prctl(38, 0, 0, 0, 0))", &["EINVAL"]),
    ("assert libc.prctl(39, 0, 0, 0, 0) == 1", &["done"]),
    (
        "assert not any(libc.prctl(23, one, 0, 0, 0) > 0 for one in range(64))",
        &["done"],
    ),
    (
        "resource.setrlimit(resource.RLIMIT_NOFILE, (99999, 99999))",
        &["ValueError: not allowed to raise maximum limit"],
    ),
    (
        "resource.setrlimit(resource.RLIMIT_CORE, (1, 1))",
        &["ValueError: not allowed to raise maximum limit"],
    ),
    ("os.nice(-5)", &["EPERM"]),
    (
        "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
        &["EPERM"],
    ),
    (
        "assert os.getuid() == os.geteuid() == 1003 and os.getgid() == 1003",
        &["done"],
    ),
    ("assert os.getgroups() in ([], [1003])", &["done"]),
    ("assert os.getpid() == 1 and os.getppid() == 0", &["done"]),
    (
        "assert [name for name in os.listdir('/proc') if name.isdigit()] == ['1']",
        &["done"],
    ),
    ("os.kill(4000000, 0)", &["ESRCH"]),
    ("assert socket.gethostname() == 'function'", &["done"]),
    (
        "assert 'Seccomp:\\t2' in open('/proc/self/status').read()",
        &["done"],
    ),
    (
        "assert 'CapBnd:\\t0000000000000000' in open('/proc/self/status').read()",
        &["done"],
    ),
];

const CALLS: &[(&str, &[&str])] = &[
    (
        "check(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))",
        &["EPERM"],
    ),
    (
        "check(libc.mount(b'/usr', b'/tmp', None, 4096, None))",
        &["EPERM"],
    ),
    (
        "check(libc.mount(None, b'/', None, 0x20 | 0x1000, None))",
        &["EPERM"],
    ),
    (
        "check(libc.mount(b'cgroup', b'/tmp', b'cgroup', 0, b'memory'))",
        &["EPERM"],
    ),
    ("check(libc.umount2(b'/proc', 2))", &["EPERM"]),
    ("check(libc.chroot(b'/tmp'))", &["EPERM"]),
    ("call((155, 41), b'/tmp', b'/tmp')", &["EPERM"]),
    ("call(428, -100, b'/', 1)", &["EPERM"]),
    ("call(429, -100, b'/usr', -100, b'/tmp', 0)", &["EPERM"]),
    ("call(430, b'tmpfs', 0)", &["EPERM"]),
    ("call(442, -100, b'/', 0, bytes(32), 32)", &["EPERM"]),
    ("check(libc.unshare(0x10000000))", &["EPERM"]),
    ("check(libc.unshare(0x00020000))", &["EPERM"]),
    ("check(libc.unshare(0x40000000))", &["EPERM"]),
    (
        "check(libc.setns(os.open('/proc/self/ns/mnt', os.O_RDONLY), 0))",
        &["EPERM"],
    ),
    ("call((56, 220), 0x10000011, 0, 0, 0, 0)", &["EPERM"]),
    ("call(435, bytes(88), 88)", &["ENOSYS"]),
    ("check(libc.ptrace(0, 0, 0, 0))", &["EPERM"]),
    ("check(libc.ptrace(16, 1, 0, 0))", &["EPERM"]),
    ("call((310, 270), 1, None, 0, None, 0, 0)", &["EPERM"]),
    ("call((311, 271), 1, None, 0, None, 0, 0)", &["EPERM"]),
    ("call((312, 272), 1, 1, 0, 0, 0)", &["EPERM"]),
    ("call(438, 0, 0, 0)", &["EPERM"]),
    ("call((321, 280), 0, None, 0)", &["EPERM"]),
    ("call((298, 241), None, 0, -1, -1, 0)", &["EPERM"]),
    ("call((323, 282), 0)", &["EPERM"]),
    ("call(425, 1, bytes(120))", &["EPERM"]),
    ("call((250, 219), 0, -3, 1)", &["EPERM"]),
    ("call((248, 217), b'user', b'x', b'y', 1, -3)", &["EPERM"]),
    ("call((249, 218), b'user', b'x', None, -3)", &["EPERM"]),
    ("call((246, 104), 0, 0, None, 0)", &["EPERM"]),
    ("call((320, 294), 0, 0, 0, None, 0)", &["EPERM"]),
    ("call((175, 105), None, 0, b'')", &["EPERM"]),
    ("call((313, 273), 0, b'', 0)", &["EPERM"]),
    ("call((176, 106), b'x', 0)", &["EPERM"]),
    ("check(libc.reboot(0))", &["EPERM"]),
    ("check(libc.swapon(b'/tmp', 0))", &["EPERM"]),
    ("check(libc.klogctl(3, None, 0))", &["EPERM"]),
    ("check(libc.sethostname(b'x', 1))", &["EPERM"]),
    ("call((164, 170), bytes(16), None)", &["EPERM"]),
    ("check(libc.acct(None))", &["EPERM"]),
    ("check(libc.personality(0x40000))", &["EPERM"]),
    ("call((304, 265), -100, bytes(16), 0)", &["EPERM"]),
    ("call((300, 262), 0, 0)", &["EPERM"]),
    ("fcntl.ioctl(0, 0x5412, b'x')", &["EPERM"]),
    (
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        &["EPERM"],
    ),
    (
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
        &["EPERM"],
    ),
    ("socket.socket(40, socket.SOCK_STREAM)", &["EPERM"]),
    ("socket.socket(38, socket.SOCK_SEQPACKET)", &["EPERM"]),
    (
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)",
        &["EPERM"],
    ),
    (
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)",
        &["EPERM"],
    ),
];

#[test]
fn an_instance_reaches_no_files_but_its_own() {
    if !is_root() {
        return;
    }
    on_old_and_new(|machine: Machine| async move {
        try_all(&machine, FILES).await;
        let other = machine.function("secret = 1").code().join("main.py");
        let own = fs::canonicalize(machine.dir.path().join("run")).unwrap();
        let other = format!("read({:?})", other.to_str().unwrap());
        let own = format!("os.listdir({:?})", own.to_str().unwrap());
        try_all(&machine, &[(&other, &["ENOENT"]), (&own, &["ENOENT"])]).await;
    });
}

#[test]
fn an_instance_has_no_rights_and_gets_none() {
    if !is_root() {
        return;
    }
    on_old_and_new(|machine: Machine| async move {
        try_all(&machine, RIGHTS).await;
    });
}

#[test]
fn an_instance_cannot_ask_the_kernel_for_what_a_function_does_not_need() {
    if !is_root() {
        return;
    }
    on_old_and_new(|machine: Machine| async move {
        try_all(&machine, CALLS).await;
    });
}

/// A machine with the newest interpreter.
fn newest(confinement: ConfinementConfig) -> Machine {
    let newest = interpreters().pop().unwrap();
    Machine::confined(Runtime::Python(newest.version), confinement)
}

#[tokio::test]
async fn an_instance_without_a_network_reaches_nothing_but_itself() {
    if !is_root() {
        return;
    }
    let machine = newest(ConfinementConfig {
        network: Network::None,
        ..ConfinementConfig::default()
    });
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let name = format!("bugle-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _unix = UnixListener::bind_addr(&address).unwrap();
    let attempts = [
        format!("connect(socket.AF_INET, ('127.0.0.1', {port}))"),
        format!("connect(socket.AF_UNIX, '\\0{name}')"),
    ];
    let refused: &[&str] = &["ECONNREFUSED"];
    let nowhere: &[&str] = &["ENETUNREACH"];
    try_all(
        &machine,
        &[
            (attempts[0].as_str(), refused),
            (attempts[1].as_str(), refused),
            ("connect(socket.AF_INET, ('169.254.169.254', 80))", nowhere),
            ("connect(socket.AF_INET, ('10.0.0.1', 443))", nowhere),
            ("connect(socket.AF_INET6, ('2001:db8::1', 443))", nowhere),
            (
                "a = socket.socket(); a.bind(('127.0.0.1', 0)); a.listen(1); \
              connect(socket.AF_INET, a.getsockname())",
                &["done"],
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_memory_hog_is_told_its_limit_and_its_neighbour_goes_on() {
    if !is_root() {
        return;
    }
    let machine = newest(ConfinementConfig::default());
    let neighbour = machine
        .start("def handler(event, context):\n    return 'here'\n")
        .await
        .unwrap();
    let source = "def handler(event, context):\n    kept = []\n    while True:\n        \
                  kept.append(bytearray(1 << 20))\n";
    let mut function = machine.function(source);
    function.spec.resources.memory.0 = 64;
    let hog = function.start().await.unwrap();
    let error = hog.call(b"{}").await.unwrap_err();
    let exit = hog.instance.exited().await;
    let used_bytes = exit.peak_memory;
    let cause = ExitCause::OutOfMemory {
        limit_mib: 64,
        used_bytes,
    };
    assert_eq!(exit.cause, cause);
    assert_eq!(error, CallError::Exited(cause));
    let text = exit.cause.to_string();
    assert!(
        text.starts_with("runtime memory limit exceeded, memory used: 6")
            && text.ends_with("MB, memory limit: 64MB (out of memory, limit 64 MB)"),
        "{text}"
    );
    assert!(exit.peak_memory >= 60 << 20, "{}", exit.peak_memory);
    assert_eq!(neighbour.answer("{}").await, r#""here""#);
}

#[tokio::test]
async fn a_full_tmp_counts_as_memory_of_its_owner_and_has_an_end() {
    if !is_root() {
        return;
    }
    let machine = newest(ConfinementConfig {
        tmp_mb: 8,
        tmp_files: 100,
        ..ConfinementConfig::default()
    });
    let source = "import errno\ndef handler(event, context):\n    made = 0\n    try:\n        \
                  for n in range(1000):\n            with open('/tmp/%d' % n, 'wb') as file:\n                \
                  file.write(b'x' * event)\n            made += 1\n    except OSError as error:\n        \
                  return [errno.errorcode[error.errno], made]\n";
    for (size, most) in [(0, 100), (1 << 20, 8)] {
        let filler = machine.start(source).await.unwrap();
        let neighbour = machine.start(source).await.unwrap();
        let answer: (String, u32) =
            serde_json::from_str(&filler.answer(&size.to_string()).await).unwrap();
        assert_eq!(answer.0, "ENOSPC");
        assert!(answer.1 <= most && answer.1 > most / 2, "{answer:?}");
        let answer: (String, u32) = serde_json::from_str(&neighbour.answer("0").await).unwrap();
        assert!(answer.1 > 50, "the neighbour's own is empty: {answer:?}");
    }
}

#[tokio::test]
async fn bombs_of_processes_and_threads_meet_a_limit_and_leave_nothing() {
    if !is_root() {
        return;
    }
    let machine = newest(ConfinementConfig::default());
    let neighbour = machine
        .start(
            "import subprocess\ndef handler(event, context):\n    \
                return subprocess.call(['true'])\n",
        )
        .await
        .unwrap();
    let forks = "import os, time\ndef handler(event, context):\n    made = []\n    try:\n        \
                 while True:\n            pid = os.fork()\n            if not pid:\n                \
                 os.setsid()\n                time.sleep(600)\n            made.append(pid)\n    \
                 except OSError:\n        return made\n";
    let threads = "import threading, time\ndef handler(event, context):\n    made = 0\n    try:\n        \
                   while True:\n            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n            \
                   made += 1\n    except RuntimeError:\n        return [made]\n";
    for source in [forks, threads] {
        let mut function = machine.function(source);
        function.spec.resources.memory.0 = 512;
        let bomb = function.start().await.unwrap();
        let made: Vec<u32> = serde_json::from_str(&bomb.answer("{}").await).unwrap();
        assert_eq!(neighbour.answer("{}").await, "0");
        let pid = bomb.instance.pid().unwrap();
        let daemons: Vec<u32> = match made.as_slice() {
            [threads] => {
                assert!((200..256).contains(threads), "{threads}");
                Vec::new()
            }
            children => {
                assert!((200..256).contains(&children.len()), "{}", children.len());
                [children[0], children[children.len() - 1]]
                    .map(|inner| outside(pid, inner))
                    .into()
            }
        };
        bomb.instance.kill();
        bomb.instance.exited().await;
        for daemon in daemons {
            gone(daemon).await;
        }
    }
}

#[tokio::test]
async fn an_operator_who_requires_what_the_machine_lacks_gets_no_instance() {
    let machine = newest(ConfinementConfig {
        require: true,
        read_only_paths: vec!["/no/such/path".into()],
        ..ConfinementConfig::default()
    });
    let error = machine.start("").await.unwrap_err().to_string();
    assert!(!is_root() || error.contains("/no/such/path"), "{error}");
}

/// The control groups, mounts, descriptors and children of this process.
fn count() -> (usize, usize, usize) {
    let entries = |path: &str| fs::read_dir(path).map_or(0, Iterator::count);
    let mine = format!("bugle-{}-", std::process::id());
    let own_group = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mut groups = 0;
    for line in own_group.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (name, path) = (fields.next().unwrap(), fields.next().unwrap());
        let name = if name.is_empty() { "unified" } else { name };
        let tree = format!("/sys/fs/cgroup/{name}{path}");
        let dirs = fs::read_dir(&tree).into_iter().flatten().flatten();
        let own = dirs.filter(|dir| dir.file_name().to_str().unwrap().starts_with(&mine));
        groups += own
            .flat_map(|dir| fs::read_dir(dir.path()).into_iter().flatten().flatten())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .count();
    }
    let mounts = fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .lines()
        .count();
    (groups, mounts, entries("/proc/self/fd"))
}

#[tokio::test]
async fn a_thousand_starts_leave_nothing_behind() {
    if !is_root() {
        return;
    }
    let machine = newest(ConfinementConfig::default());
    let source = "def handler(event, context): pass\n";
    let mut first = (0, 0, 0);
    for round in 0..1000 {
        let instance = machine.start(source).await.unwrap();
        instance.instance.kill();
        instance.instance.exited().await;
        drop(instance);
        if round == 20 {
            first = count();
        }
    }
    // The last group may need a moment, and a process may be about to be parked.
    for _ in 0..200 {
        let last = count();
        if last.0 <= first.0 + 4 && last.1 == first.1 && last.2 <= first.2 + 4 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{first:?} became {:?}", count());
}
