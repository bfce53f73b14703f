# SPDX-License-Identifier: Apache-2.0
"""Takes away from an instance what it does not need, before any user code runs in it.

The platform decides: it sends a *plan* (`crates/instances/src/confinement/plan.rs`), a flat JSON
object. Nothing is chosen here, and a step that fails ends the process that tried it.

The work is split by when it can be done. The parent makes a view of the file system once
(`enter_parent`), and decides what its forks will ask the kernel for: a fork copies each page of
memory that it touches, so it only makes calls that are ready to be made. A fork gets namespaces
and a private root while it is parked (`park`). What depends on the function, its code, and what
takes the rights away comes last (`finish`), and is all that a cold start waits for.
"""

import ctypes
import os
import resource
import stat
import struct
import _thread

import _signal

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_MOVE, _MS_REC, _MS_PRIVATE = 0x20, 0x1000, 0x2000, 0x4000, 0x40000
_MNT_DETACH = 2
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_MOVE_MOUNT_F_EMPTY_PATH = 4
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 1, 2, 4, 8

_NEWNS = 0x00020000
_NEWPID = 0x20000000
_NEWNET = 0x40000000

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

_SYS_MOVE_MOUNT = 429
_SYS_MOUNT_SETATTR = 442
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(os.uname().machine, -1)

_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x1 | 0x40

_BADNESS = "/proc/self/oom_score_adj"
_BADNESS_OF_FORKS = b"500"

_MOUNT_ATTRIBUTES = struct.Struct("<QQQQ")
_ATTRIBUTES_SIZE = ctypes.c_size_t(_MOUNT_ATTRIBUTES.size)

# How many threads there are beside the first one.
_other_threads = _thread._count

# Where a fork builds its root, in the parent's view.
_STAGE = "/.root"


class Refused(Exception):
    """The kernel did not allow a step."""


class Confinement(object):
    """Carries out one plan."""

    def __init__(self, plan):
        self._plan = plan
        self._libc = ctypes.CDLL(None, use_errno=True)
        # Without these, every argument would be taken for a C int.
        self._libc.mount.argtypes = (ctypes.c_char_p,) * 3 + (ctypes.c_ulong, ctypes.c_char_p)
        self._libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
        self._libc.prctl.argtypes = (ctypes.c_int,) + (ctypes.c_ulong,) * 4
        self._parent = os.getpid()
        self._pid_namespace = -1
        self._moves = []
        # What a fork does, in order: a description for the operator, a call, its arguments.
        self._parking = []
        self._finishing = []
        self._badness = _open_badness()
        self._before_fork = []
        self._after_fork = []
        code = bytes.fromhex(plan["seccomp"])
        # The kernel reads the filter through these two; they have to stay alive.
        self._filter = ctypes.create_string_buffer(code, len(code))
        self._program = ctypes.create_string_buffer(
            struct.pack("@HP", len(code) // 8, ctypes.addressof(self._filter))
        )

    # In the parent.

    def enter_parent(self, rehearsal):
        """Gives the parent its own view of the file system, with what an instance may read.

        The parent sees the directory `rehearsal` beside that, where it was.
        """
        plan = self._plan
        self._take((self._process(_PR_SET_NO_NEW_PRIVS, 1),))
        for name, value in plan["limits"]:
            _lower_limit(getattr(resource, "RLIMIT_" + name), value)
        if plan["drop_capabilities"]:
            # What is out of this set, no program that is run later can have. The parent keeps the
            # rights it has, which it needs to confine its forks.
            for capability in range(_LAST_CAPABILITY + 1):
                # Numbers that this kernel does not have are refused, and not needed.
                self._libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        if plan["shared_namespaces"]:
            self._unshare(plan["shared_namespaces"], "namespaces")
        if plan["hostname"]:
            name = plan["hostname"].encode("ascii")
            self._check(self._libc.sethostname(name, len(name)), "set the host name")
        if plan["pid_namespace"]:
            self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        if plan["mounts"] is not None:
            self._make_view(plan["mounts"], rehearsal)
        self.prepare()

    def _make_view(self, mounts, rehearsal):
        self._unshare(_NEWNS, "mount namespace")
        self._mount(None, "/", None, _MS_REC | _MS_PRIVATE)
        stage = mounts["stage"]
        self._mount("tmpfs", stage, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=4m")
        os.mkdir(stage + _STAGE)
        self._make_etc(stage)
        self._make_dev(stage)
        for path in mounts["binds"]:
            self._bind_read_only(path, stage + path, True)
            self._moves.append(path)
        for path, target in mounts["links"]:
            os.symlink(target, stage + path)
        self._bind_read_only(rehearsal, stage + rehearsal, False)
        steps = []
        self._pivot(steps, stage)
        self._take(steps)

    def prepare(self):
        """Decides what forks do, as far as it can be decided here."""
        self._before_fork, self._after_fork = self._steps_of_fork()
        self._parking = self._steps_of_parking()
        self._finishing = self._steps_of_finishing()

    def rehearse(self):
        """Confines a process as an instance is, to learn now whether the kernel lets us.

        Raises `Refused` with what it said.
        """
        read, write = os.pipe()
        pid = self.fork()
        if pid == 0:
            try:
                self.park()
                self.finish("", None)
            except BaseException as error:
                os.write(write, self.explain(error).encode("utf-8"))
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            problem = pipe.read().decode("utf-8")
        _pid, status = os.waitpid(pid, 0)
        if problem or status:
            raise Refused(problem or "confine: a trial ended with status %d" % status)

    def open_parent(self):
        """Lets the parent work like an ordinary process for a while: packages are imported."""
        if self._pid_namespace >= 0:
            # The trial has ended, and its namespace takes no more processes or threads.
            self._check(
                self._libc.setns(self._pid_namespace, _NEWPID), "enter the process namespace"
            )
        if self._plan["mounts"] is not None:
            os.mkdir("/proc")
            self._mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
            # In the parent's own small root, which no instance sees.
            os.makedirs("/tmp", exist_ok=True)

    def close_parent(self):
        """Takes away again what an instance would inherit for nothing."""
        if self._plan["mounts"] is not None:
            self._check(self._libc.umount2(b"/proc", _MNT_DETACH), "take /proc away")
            os.rmdir("/proc")

    @staticmethod
    def explain(error):
        """One line for the operator."""
        if isinstance(error, Refused):
            return str(error)
        return "confine: %s: %s" % (type(error).__name__, error)

    def fork(self):
        """Forks: the first process of a process namespace, and the first to go for want of memory."""
        self._take(self._before_fork)
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid != 0:
                self._take(self._after_fork)
        return pid

    def _steps_of_fork(self):
        before, after = [], []
        if self._pid_namespace >= 0:
            # A second namespace can only be asked for when the next child is not in one already.
            own = ("enter the process namespace", self._libc.setns, (self._pid_namespace, _NEWPID))
            before += [own, ("make a process namespace", self._libc.unshare, (_NEWPID,))]
        if self._badness is not None:
            fd, own = self._badness
            before.append(("set the badness of forks", os.pwrite, (fd, _BADNESS_OF_FORKS, 0)))
            after.append(("set the badness back", os.pwrite, (fd, own, 0)))
        return before, after

    def _make_etc(self, stage):
        etc = stage + "/etc"
        os.mkdir(etc)
        self._mount("tmpfs", etc, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=8m")
        for name in self._plan["mounts"]["copies"]:
            os.makedirs(os.path.dirname(etc + "/" + name), 0o755, exist_ok=True)
            _copy("/etc/" + name, etc + "/" + name)
        for name, text in self._plan["mounts"]["files"]:
            with open(etc + "/" + name, "w") as file:
                file.write(text)
        for name in self._plan["mounts"]["etc"]:
            self._bind_read_only("/etc/" + name, etc + "/" + name, False)
        attributes = _ATTR_NODEV | _ATTR_NOEXEC
        self._take((self._attributes(_AT_FDCWD, etc, attributes, recursive=False),))
        self._moves.append("/etc")

    def _make_dev(self, stage):
        dev = stage + "/dev"
        os.mkdir(dev)
        self._mount("tmpfs", dev, "tmpfs", _MS_NOSUID | _MS_NOEXEC, "mode=755,size=64k")
        for name in ("null", "zero", "full", "random", "urandom"):
            # Not bound: every mount costs at every start.
            os.mknod(dev + "/" + name, stat.S_IFCHR | 0o666, os.stat("/dev/" + name).st_rdev)
            os.chmod(dev + "/" + name, 0o666)
        for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
            os.symlink("/proc/self/fd" + target, dev + "/" + name)
        os.mkdir(dev + "/shm")
        self._moves.append("/dev")

    def _bind_read_only(self, source, target, exec_too):
        if os.path.isdir(source):
            os.makedirs(target, 0o755, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
            _make_file(target)
        self._mount(source, target, None, _MS_BIND | _MS_REC)
        attributes = _ATTR_NODEV if exec_too else _ATTR_NODEV | _ATTR_NOEXEC
        self._take((self._attributes(_AT_FDCWD, target, attributes),))

    def _steps_of_parking(self):
        plan, steps = self._plan, []
        if plan["namespaces"]:
            steps.append(("make namespaces", self._libc.unshare, (plan["namespaces"],)))
        if plan["namespaces"] & _NEWNET:
            steps.append(("raise the loopback interface", self._raise_loopback, ()))
        if plan["mounts"] is not None:
            self._prepare_root(steps, plan["mounts"])
            self._pivot(steps, _STAGE)
            steps.append(self._attributes(_AT_FDCWD, "/dev", _ATTR_NOEXEC, recursive=False))
            steps.append(self._attributes(_AT_FDCWD, "/proc", _ATTR_NODEV | _ATTR_NOEXEC))
        # Loading it takes as long as the rest of a start. It lets `finish` do what it has to;
        # that takes rights, which `finish` gives up.
        if len(self._filter):
            program = ctypes.addressof(self._program)
            steps.append(self._process(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program))
        steps.append(self._process(_PR_SET_DUMPABLE, 1))
        return steps

    def _prepare_root(self, steps, mounts):
        made = {_STAGE}

        def directory(path, mode):
            parent = os.path.dirname(path)
            if parent not in made:
                directory(parent, 0o777)
            steps.append(("make %s" % path, os.mkdir, (path, mode)))
            made.add(path)

        def mount(source, target, kind, flags, options=None):
            texts = [text and text.encode() for text in (source, target, kind, options)]
            arguments = (texts[0], texts[1], texts[2], flags, texts[3])
            steps.append(("mount %s" % target, self._libc.mount, arguments))

        flags = _MS_NOSUID | _MS_NODEV
        mount("tmpfs", _STAGE, "tmpfs", flags, "mode=755,size=1m,nr_inodes=1k")
        for path in ("/proc", "/tmp"):
            directory(_STAGE + path, 0o777)
        options = "mode=1777,size=%d,nr_inodes=%d"
        inodes = mounts["inodes"]
        mount("tmpfs", _STAGE + "/tmp", "tmpfs", flags, options % (mounts["tmp_bytes"], inodes))
        for path in self._moves:
            target = _STAGE + path
            if os.path.isdir(path):
                if target not in made:
                    directory(target, 0o755)
            else:
                steps.append(("make %s" % target, _make_file, (target,)))
            mount(path, target, None, _MS_MOVE)
        for path, target in mounts["links"]:
            steps.append(("make %s" % path, os.symlink, (target, _STAGE + path)))
        flags |= _MS_NOEXEC
        mount("proc", _STAGE + "/proc", "proc", flags, "hidepid=2")
        options %= (mounts["shm_bytes"], inodes)
        mount("tmpfs", _STAGE + "/dev/shm", "tmpfs", flags, options)

    def _steps_of_finishing(self):
        plan, steps = self._plan, []
        if plan["mounts"] is not None:
            steps.append(self._attributes(_AT_FDCWD, "/", _ATTR_NODEV, recursive=False))
        if plan["change_user"]:
            uid, gid = plan["uid"], plan["gid"]
            steps.append(("set the groups", os.setgroups, ((),)))
            steps.append(("set the group", os.setresgid, (gid, gid, gid)))
            steps.append(("set the user", os.setresuid, (uid, uid, uid)))
        if plan["drop_capabilities"]:
            # Not there before Linux 4.3, and then there is nothing to clear.
            clear = (_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
            steps.append((None, self._libc.prctl, clear))
            header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
            steps.append(("drop capabilities", self._libc.capset, (header, bytes(24))))
        # A change of user takes both away. The second makes /proc/self one's own.
        steps.append(self._process(_PR_SET_PDEATHSIG, _signal.SIGKILL))
        steps.append(self._process(_PR_SET_DUMPABLE, 1))
        return steps

    @staticmethod
    def _raise_loopback():
        import fcntl
        import socket

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            request = struct.pack("16sH22x", b"lo", _IFF_UP_RUNNING)
            fcntl.ioctl(any_socket.fileno(), _SIOCSIFFLAGS, request)

    # In a fork that is parked.

    def park(self):
        """Gives this process everything of its own that does not depend on the function."""
        self._take(self._parking)

    # In a fork that was given a function.

    def finish(self, code, code_fd):
        """Shows the code, if there is a tree to show, and gives up every right for good."""
        if _other_threads():
            # Rights belong to threads: another one would keep them.
            raise Refused("confine: the process has more than one thread")
        if code_fd is not None:
            if self._plan["mounts"] is not None:
                self._show_code(code, code_fd)
            os.close(code_fd)
        self._take(self._finishing)
        # It may have ended before it was asked to take its forks with it. In a process namespace
        # of its own an instance does not see its parent; it sees its socket close.
        if os.getppid() not in (0, self._parent):
            raise Refused("confine: the parent has ended")

    def _show_code(self, code, code_fd):
        missing, path = [], code
        while path and not os.access(path, os.F_OK):
            missing.append(path)
            path = path.rpartition("/")[0]
        while missing:
            os.mkdir(missing.pop(), 0o755)
        self._take((self._attributes(code_fd, "", _ATTR_NODEV),))
        moved = self._libc.syscall(
            _SYS_MOVE_MOUNT, code_fd, b"", _AT_FDCWD, code.encode(), _MOVE_MOUNT_F_EMPTY_PATH
        )
        self._check(moved, "show the code at %s" % code)

    def _take(self, steps):
        """Makes the calls; raises at the first that fails, if it has a description."""
        for what, call, arguments in steps:
            if call(*arguments) == -1 and what is not None:
                self._check(-1, what)

    # Calls of the kernel, to be made or made.

    def _pivot(self, steps, root):
        steps.append(("enter the new root", os.chdir, (root,)))
        steps.append(("change the root", self._libc.syscall, (_SYS_PIVOT_ROOT, b".", b".")))
        # The old root lies over the new one until it is taken away.
        steps.append(("take the old root away", self._libc.umount2, (b".", _MNT_DETACH)))
        steps.append(("enter the root", os.chdir, ("/",)))

    def _mount(self, source, target, kind, flags, options=None):
        arguments = [text and text.encode() for text in (source, target, kind, options)]
        done = self._libc.mount(arguments[0], arguments[1], arguments[2], flags, arguments[3])
        self._check(done, "mount %s" % target)

    def _attributes(self, fd, path, attributes, recursive=True):
        """The step that makes a mount read-only, and without programs of other users."""
        attributes |= _ATTR_RDONLY | _ATTR_NOSUID
        flags = (_AT_RECURSIVE if recursive else 0) | (0 if path else _AT_EMPTY_PATH)
        wanted = _MOUNT_ATTRIBUTES.pack(attributes, 0, _MS_PRIVATE, 0)
        arguments = (_SYS_MOUNT_SETATTR, fd, path.encode(), flags, wanted, _ATTRIBUTES_SIZE)
        return "make %s read-only" % (path or "the code"), self._libc.syscall, arguments

    def _process(self, option, value, more=0):
        """The step that sets a property of the process."""
        return "prctl %d" % option, self._libc.prctl, (option, value, more, 0, 0)

    def _unshare(self, flags, what):
        self._check(self._libc.unshare(flags), "make a %s" % what)

    def _check(self, result, step):
        if result < 0:
            error = ctypes.get_errno()
            raise Refused("confine: %s: %s" % (step, os.strerror(error)))


def _open_badness():
    """The file with this process's badness, open, and what it says; None if it is not to be changed.

    When the machine runs out of memory, an instance goes before the platform does. A fork inherits
    its badness: for each to write it itself is twenty times as much work, most of it for the
    kernel, which has to make the file, and to look for it when the process ends.
    """
    try:
        with open(_BADNESS, "rb") as file:
            own = file.read()
        fd = os.open(_BADNESS, os.O_WRONLY | os.O_CLOEXEC)
        os.pwrite(fd, _BADNESS_OF_FORKS, 0)
        os.pwrite(fd, own, 0)
    except OSError:
        # Then the kernel chooses by size alone.
        return None
    return fd, own


def _make_file(path):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def _lower_limit(kind, value):
    # The hard limit may be lower already, and only some may raise it.
    _soft, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _copy(source, target):
    with open(source, "rb") as original, open(target, "wb") as copy:
        copy.write(original.read())
