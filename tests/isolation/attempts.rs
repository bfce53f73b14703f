//! What the probe tries, and how each attempt has to end.

use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use bugle_testkit::{Platform, Registered, Site};
use serde_json::json;

use crate::{Form, evaluate, send};

/// A statement, and the errors that count as refused. `{…}` are filled in from [`Outside`].
pub(crate) type Attempt = (&'static str, &'static [&'static str]);

const NOT_THERE: &[&str] = &["ENOENT"];
const REFUSED: &[&str] = &["EPERM"];
const FORBIDDEN: &[&str] = &["EACCES"];
const READ_ONLY: &[&str] = &["EROFS", "EACCES", "EPERM"];
const HIDDEN: &[&str] = &["ENOENT", "EACCES"];

/// The platform, its secrets, and other functions.
pub(crate) const REACH: &[Attempt] = &[
    ("connect(('127.0.0.1', {control}))", FORBIDDEN),
    ("connect(('127.0.0.2', {control}))", FORBIDDEN),
    ("connect(('::1', {control}))", FORBIDDEN),
    ("sh('exec 3<>/dev/tcp/127.0.0.1/{control}')", REFUSED),
    ("connect(('127.0.0.1', {program}))", FORBIDDEN),
    ("connect(('127.0.0.1', 2375))", FORBIDDEN),
    ("connect(('127.0.0.1', 2379))", FORBIDDEN),
    ("connect(('127.0.0.1', 10250))", FORBIDDEN),
    ("unix('\\0{abstract}')", REFUSED),
    ("unix('/run/docker.sock')", NOT_THERE),
    ("unix('/var/run/docker.sock')", NOT_THERE),
    ("read('{data}/environment.key')", NOT_THERE),
    ("read('{data}/bugle.db')", NOT_THERE),
    ("os.listdir('{data}')", NOT_THERE),
    ("read('{other_code}/index.py')", NOT_THERE),
    ("write('{code}/index.py')", READ_ONLY),
    ("os.unlink('{code}/index.py')", READ_ONLY),
    ("read('/proc/{platform}/environ')", NOT_THERE),
    ("read('/proc/{platform}/root/etc/shadow')", NOT_THERE),
    ("os.listdir('/proc/{platform}/fd')", NOT_THERE),
    ("os.kill({platform}, 9)", &["ESRCH"]),
    ("os.kill({neighbour}, 9)", &["ESRCH"]),
    ("os.kill({neighbour}, 0)", &["ESRCH"]),
    (
        "assert [fd for fd in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + fd) \
         and int(fd) > 20] == []",
        &["done"],
    ),
    (
        "assert not [name for name in os.environ if 'BUGLE' in name or 'TOKEN' in name]",
        &["done"],
    ),
];

/// Files and devices of the machine.
pub(crate) const MACHINE: &[Attempt] = &[
    ("read('/etc/shadow')", NOT_THERE),
    ("read('/root/.bashrc')", NOT_THERE),
    ("os.listdir('/home')", NOT_THERE),
    ("os.listdir('/run')", NOT_THERE),
    ("os.listdir('/sys')", NOT_THERE),
    ("read('/proc/1/root/etc/shadow')", NOT_THERE),
    ("read('../../../../../../etc/shadow')", NOT_THERE),
    (
        "os.symlink('/etc/shadow', '/tmp/link'); read('/tmp/link')",
        NOT_THERE,
    ),
    ("write('/usr/bin/new')", READ_ONLY),
    ("write('/etc/passwd')", READ_ONLY),
    ("write('/new')", READ_ONLY),
    ("write('/proc/sys/kernel/core_pattern')", READ_ONLY),
    (
        "write('/proc/sysrq-trigger')",
        &["EROFS", "EACCES", "ENOENT"],
    ),
    ("write('/proc/self/oom_score_adj')", READ_ONLY),
    ("read('/proc/kcore')", &["EACCES", "EPERM", "ENOENT"]),
    ("read('/dev/mem')", NOT_THERE),
    ("read('/dev/kmsg')", NOT_THERE),
    ("os.open('/dev/tty', os.O_RDWR)", NOT_THERE),
    ("read('/sys/fs/cgroup/memory/release_agent')", NOT_THERE),
    (
        "os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0))",
        REFUSED,
    ),
    ("os.chmod('/usr/bin/env', 0o4755)", READ_ONLY),
    ("write('/tmp/own'); os.chown('/tmp/own', 0, 0)", REFUSED),
];

/// Rights, and calls that only somebody with rights needs.
pub(crate) const RIGHTS: &[Attempt] = &[
    ("os.setuid(0)", REFUSED),
    ("os.setgid(0)", REFUSED),
    ("os.setgroups([0])", REFUSED),
    ("sh('su -c true root')", REFUSED),
    ("os.nice(-5)", REFUSED),
    ("check(libc.chroot(b'/tmp'))", REFUSED),
    (
        "check(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))",
        REFUSED,
    ),
    ("check(libc.mount(None, b'/', None, 0x1020, None))", REFUSED),
    ("check(libc.umount2(b'/proc', 2))", REFUSED),
    ("call(155, 41, b'/tmp', b'/tmp')", REFUSED),
    ("check(libc.unshare(0x10000000))", REFUSED),
    ("call(56, 220, 0x10000011, 0, 0, 0, 0)", REFUSED),
    ("call(435, 435, bytes(88), 88)", &["ENOSYS"]),
    (
        "check(libc.setns(os.open('/proc/self/ns/net', os.O_RDONLY), 0))",
        REFUSED,
    ),
    ("check(libc.ptrace(16, 1, 0, 0))", REFUSED),
    ("call(310, 270, 1, None, 0, None, 0, 0)", REFUSED),
    ("call(438, 438, 0, 0, 0)", REFUSED),
    ("call(321, 280, 0, None, 0)", REFUSED),
    ("call(298, 241, None, 0, -1, -1, 0)", REFUSED),
    ("call(323, 282, 0)", REFUSED),
    ("call(425, 425, 1, bytes(120))", REFUSED),
    ("call(250, 219, 0, -3, 1)", REFUSED),
    ("call(304, 265, -100, bytes(16), 0)", REFUSED),
    ("call(175, 105, None, 0, b'')", REFUSED),
    ("check(libc.reboot(0))", REFUSED),
    ("check(libc.sethostname(b'x', 1))", REFUSED),
    ("socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", REFUSED),
    ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", REFUSED),
    ("socket.socket(40, socket.SOCK_STREAM)", REFUSED),
    (
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)",
        REFUSED,
    ),
    (
        "assert (os.getuid(), os.geteuid(), os.getgid(), os.getegid()) == (1003,) * 4",
        &["done"],
    ),
    (
        "assert [line for line in open('/proc/self/status') if line.startswith('Cap') and \
         line.split()[1].strip('0')] == []",
        &["done"],
    ),
    (
        "assert 'NoNewPrivs:\\t1' in open('/proc/self/status').read()",
        &["done"],
    ),
    (
        "assert 'Seccomp:\\t2' in open('/proc/self/status').read()",
        &["done"],
    ),
    (
        "assert set(name for name in os.listdir('/proc') if name.isdigit()) == {'1'}",
        &["done"],
    ),
    // What is meant to work.
    ("write('/tmp/new')", &["done"]),
    ("write('/dev/shm/new')", &["done"]),
    ("read('/dev/urandom')", &["done"]),
    ("sh('true')", &["done"]),
    ("connect(('127.0.0.1', {gateway}))", &["done"]),
];

/// What holds for a platform that is not root, too.
pub(crate) const WITHOUT_ROOT: &[Attempt] = &[
    ("connect(('127.0.0.1', {control}))", FORBIDDEN),
    ("connect(('127.0.0.1', {program}))", FORBIDDEN),
    ("connect(('127.0.0.1', 2379))", FORBIDDEN),
    ("unix('\\0{abstract}')", REFUSED),
    ("read('{data}/environment.key')", FORBIDDEN),
    ("read('{data}/bugle.db')", FORBIDDEN),
    ("os.listdir('{data}')", FORBIDDEN),
    ("write('{data}/new')", FORBIDDEN),
    ("read('{home}/secret')", FORBIDDEN),
    ("write('{code}/index.py')", FORBIDDEN),
    ("write('/tmp/new')", FORBIDDEN),
    ("os.listdir('/home')", HIDDEN),
    ("os.listdir('/var')", FORBIDDEN),
    ("os.setuid(0)", REFUSED),
    ("sh('su -c true root')", REFUSED),
    ("check(libc.unshare(0x10000000))", REFUSED),
    ("check(libc.ptrace(16, {platform}, 0, 0))", REFUSED),
    ("call(425, 425, 1, bytes(120))", REFUSED),
    ("write(os.environ['TMPDIR'] + '/new')", &["done"]),
    ("sh('true')", &["done"]),
];

/// What a program without a network tries.
pub(crate) const ALONE: &[Attempt] = &[
    (
        "connect(('127.0.0.1', {control}))",
        &["EACCES", "ECONNREFUSED"],
    ),
    ("connect(('127.0.0.1', {gateway}))", &["ECONNREFUSED"]),
    ("connect(('192.0.2.1', 80))", &["ENETUNREACH"]),
    ("connect(('169.254.169.254', 80))", &["ENETUNREACH"]),
    ("unix('\\0{abstract}')", &["ECONNREFUSED", "EPERM"]),
    ("connect(('127.0.0.1', 8000))", &["done"]),
];

/// What lies outside of the instance that tries.
#[derive(Debug)]
pub(crate) struct Outside {
    places: BTreeMap<&'static str, String>,
    _listener: UnixListener,
}

impl Outside {
    pub(crate) async fn new(site: &Site, platform: &Platform, function: &Registered) -> Self {
        // Somebody else's program, which listens and has a secret.
        let other = platform.register(&Form::Program.spec(site, "other")).await;
        let port = evaluate(platform, &other, "os.environ['PORT']").await;
        let neighbour = platform.instance_pids(&other).await[0];
        std::fs::write(site.home().join("secret"), "x").unwrap();
        let name = format!("bugle-test-{}-{}", std::process::id(), function.name);
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let shown = |path: std::path::PathBuf| path.display().to_string();
        let places = BTreeMap::from([
            ("control", platform.control.address.port().to_string()),
            ("gateway", platform.gateway.address.port().to_string()),
            ("program", port.as_str().unwrap().to_owned()),
            ("neighbour", neighbour.to_string()),
            ("platform", platform.pid.to_string()),
            ("abstract", name),
            ("data", shown(site.data_dir())),
            ("home", shown(site.home())),
            ("code", shown(site.code_root().join("probe"))),
            ("other_code", shown(site.code_root().join("other"))),
        ]);
        Self {
            places,
            _listener: UnixListener::bind_addr(&address).unwrap(),
        }
    }

    fn fill(&self, statement: &str) -> String {
        let mut filled = statement.to_owned();
        for (name, value) in &self.places {
            filled = filled.replace(&format!("{{{name}}}"), value);
        }
        filled
    }
}

/// Tries everything in one call; returns what did not end as it has to.
pub(crate) async fn try_all(
    platform: &Platform,
    function: &Registered,
    outside: &Outside,
    attempts: &[Attempt],
) -> Vec<String> {
    let statements: Vec<String> = attempts.iter().map(|(one, _)| outside.fill(one)).collect();
    let answer = send(platform, function, &json!({ "try": statements })).await;
    let outcomes = answer.expect(200).json();
    let pairs = statements.iter().zip(attempts);
    pairs
        .filter(|(statement, (_, expected))| {
            let outcome = outcomes[statement.as_str()].as_str().unwrap_or_default();
            !expected.contains(&outcome)
        })
        .map(|(statement, (_, expected))| {
            format!("{statement}: {}, not {expected:?}", outcomes[statement])
        })
        .collect()
}
