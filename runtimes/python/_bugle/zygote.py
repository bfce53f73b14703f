# SPDX-License-Identifier: Apache-2.0
"""The warm parent: imports what most functions need, then forks one instance per request.

It is single-threaded, so a fork copies a process in a known state, and it is the parent, so it is
the one that may kill an instance without a race on its process id. It never runs user code and
never sees what an instance is told: the START frame waits in the instance's own socket.

When the platform ends, its side of the control socket closes; every instance is then killed with
its process group. When this process ends, the kernel kills the instances (`PR_SET_PDEATHSIG`), and
those that are parked see their socket close.
"""

import errno
import gc
import json
import os
import resource
import select
import socket
import struct
import sys
import time

# The module without the names of enumerations, which a fork would have to look up.
import _signal

from _bugle import growth, heap

# Requests: kind, id. Reports: kind, value, id, detail.
_REQUEST = struct.Struct("<B7xQ")
_REPORT = struct.Struct("<B3xiQQ")
_DESCRIPTORS = struct.Struct("2i")
_REQUEST_SIZE = _REQUEST.size
_CONTROL_SPACE = socket.CMSG_SPACE(_DESCRIPTORS.size)

_FORK = 1
_KILL = 2
_HELLO = 16
_FORKED = 17
_EXITED = 18
_FORK_FAILED = 19

# What every parent has beside what this package needs itself. A fork costs more with every module,
# and most with those that are libraries of the system, so there are few.
_LITTLE = (
    "collections",
    "copy",
    "datetime",
    "itertools",
    "typing",
)

# The part of the standard library that one more parent has, for functions that import some of it.
# What costs more than it saves is the operator's to add.
_LIBRARY = (
    "asyncio",
    "base64",
    "bisect",
    "calendar",
    "collections",
    "concurrent.futures",
    "contextlib",
    "contextvars",
    "copy",
    "csv",
    "ctypes",
    "dataclasses",
    "datetime",
    "decimal",
    "email.utils",
    "email.message",
    "email.parser",
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "enum",
    "fractions",
    "functools",
    "gzip",
    "hashlib",
    "heapq",
    "hmac",
    "html",
    "http.client",
    "inspect",
    "io",
    "itertools",
    "json",
    "logging",
    "math",
    "mimetypes",
    "operator",
    "pathlib",
    "pickle",
    "platform",
    "queue",
    "random",
    "re",
    "secrets",
    "shutil",
    "socket",
    "ssl",
    "statistics",
    "string",
    "subprocess",
    "tempfile",
    "textwrap",
    "threading",
    "traceback",
    "types",
    "typing",
    "urllib.parse",
    "urllib.request",
    "uuid",
    "warnings",
    "weakref",
    "zipfile",
    "zlib",
)

# The first message from the platform: how instances are confined, and what to import for them.
_MAX_ORDER = 256 * 1024

_OF_THE_SERVICE = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)

# Forks that follow each other within so many seconds are wanted by calls.
_HURRY = 0.01

# Descriptors of an instance: 0 to 2, and its socket to the platform.
DATA_FD = 3


def main(extra):
    """Runs until the platform closes the control socket."""
    _close_inherited()
    control = _take_control_socket()
    order = json.loads(control.recv(_MAX_ORDER).decode("utf-8"))
    hooks = ForkHooks()
    _preload(_LITTLE)
    for name in _preload(_LIBRARY, extra) if order["library"] else ():
        sys.stderr.write("cannot import %s\n" % name)
    zygote = Zygote(control, hooks, order["plan"])
    # From here on nothing of the platform can be found by name; what is loaded stays.
    del sys.path[0]
    sys.path.extend(order["packages"])
    zygote.run(order["library"], order["imports"])


class ForkHooks(object):
    """Keeps what the library registers to be done at a fork, for the instances to register.

    The hooks put locks in order that another thread of the parent may have held. This parent has
    no other thread; its forks would only pay for it, about half a megabyte of copied pages each.
    The forks that an instance makes do need them.
    """

    def __init__(self):
        self._kept = []
        self._of_parent = sys.maxsize
        self._main = None
        self._register = getattr(os, "register_at_fork", None)
        self._hooks = {
            "before": self._before,
            "after_in_parent": self._after_in_parent,
            "after_in_child": self._after_in_child,
        }
        if self._register is not None:
            os.register_at_fork = self._keep

    def _keep(self, **hooks):
        self._kept.append(hooks)

    def _before(self):
        self._run("before", reversed(self._kept))

    def _after_in_parent(self):
        self._run("after_in_parent", self._kept)

    def _after_in_child(self):
        self._run("after_in_child", self._kept)

    @staticmethod
    def _run(when, kept):
        for hooks in kept:
            if when not in hooks:
                continue
            try:
                hooks[when]()
            except Exception:
                # As with those that are registered: the fork happens, whatever a hook says.
                sys.excepthook(*sys.exc_info())

    def keep_main_thread(self):
        """Remembers the main thread, once its module can be imported: that registers hooks."""
        import threading

        if hasattr(threading.main_thread(), "_native_id"):
            self._main = threading.main_thread()

    def grow(self):
        """Tells that what follows comes from packages that are not known here."""
        self._of_parent = len(self._kept)

    def install(self):
        """Has the hooks run from now on, in a fork, and does what packages want done in it."""
        if self._register is None:
            return
        # Before any other, so that what instances register is run on the right side of them.
        self._register(**self._hooks)
        os.register_at_fork = self._register
        for hooks in self._kept[self._of_parent :]:
            # A hook after the fork may count on that before it.
            for when in ("before", "after_in_child"):
                if when in hooks:
                    hooks[when]()
        main = self._main
        if main is not None:
            main._native_id = os.getpid()


def _close_inherited():
    """Closes what the platform's own parent may have left open: it is not for instances."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2:
                os.close(int(name))
        except OSError:
            # The descriptor of the listing itself.
            pass


def _preload(names, extra=()):
    """Imports them; returns which of the extra ones there are not."""
    missing = []
    for name in tuple(names) + tuple(extra):
        try:
            __import__(name)
        except ImportError:
            # An interpreter may be built without ssl, ctypes and others, and old ones lack some.
            if name in extra:
                missing.append(name)
    return missing


def _take_control_socket():
    """Moves the control socket away from descriptor 0, which gets /dev/null.

    It gets the number that the other socket has in an instance, so that what uses that can be
    made here.
    """
    os.dup2(0, DATA_FD, inheritable=False)
    control = socket.socket(fileno=DATA_FD)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    return control


def _load_prctl():
    """Returns `prctl`, or None in an interpreter without ctypes."""
    try:
        import ctypes
    except ImportError:
        return None
    return ctypes.CDLL(None, use_errno=True).prctl


def _confine(plan):
    """Prepares what the plan asks for; ends the process, saying why, where that is refused."""
    try:
        from _bugle.confine import Confinement
    except ImportError as error:
        sys.exit("confine: this interpreter lacks a module: %s" % error)
    from _bugle.rehearsal import CODE

    confinement = Confinement(plan)
    try:
        confinement.enter_parent(CODE)
        confinement.rehearse()
    except Exception as error:
        sys.exit(confinement.explain(error))
    return confinement


class Zygote(object):
    """Answers the platform's requests and reports the ends of instances."""

    def __init__(self, control, hooks, plan):
        self._control = control
        self._hooks = hooks
        # Imported here and not above, so that its imports find the hooks' keeper.
        from _bugle.instance import Instance

        hooks.keep_main_thread()
        self._confinement = _confine(plan)
        self._instance = Instance(self._confinement, DATA_FD)
        self._growth = growth.Growth(hooks)
        self._pid = os.getpid()
        self._prctl = _load_prctl()
        self._filling = None
        self._forked_at = 0.0
        self._pids = {}  # id -> process id
        self._ids = {}  # process id -> id
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def run(self, library, imports):
        """Imports these modules, then waits for requests and for ends; never returns."""
        if imports:
            loaded = self._grow(imports)
        elif library:
            loaded = b""
        else:
            loaded = growth.names(set(sys.modules) | set(sys.builtin_module_names))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # A service manager may signal every process of the service. The platform says when to end.
        # They wait for ever here; an instance only has to let them through.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _OF_THE_SERVICE)
        for number in _OF_THE_SERVICE:
            _signal.signal(number, _signal.SIG_DFL)
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        # The handler does nothing: it exists so that the byte in the pipe ends the poll.
        _signal.signal(_signal.SIGCHLD, _nothing)
        _signal.set_wakeup_fd(self._wake_write)
        self._growth.prepare()
        _warm_calls()
        self._instance.warm_up()
        # What is alive now lives for ever: the collector of an instance must not touch it, or
        # every page of it would be copied.
        gc.collect()
        gc.disable()
        self._filling = heap.fill()
        # Once more, now that it comes to lie together.
        self._confinement.prepare()
        if hasattr(gc, "freeze"):
            gc.freeze()
        self._report(_HELLO, self._pid, 0, len(loaded))
        if loaded:
            self._control.send(loaded)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            for fd, _events in poll.poll():
                if fd == self._wake_read:
                    self._reap()
                else:
                    self._serve()

    def _grow(self, imports):
        try:
            self._confinement.open_parent()
            loaded = self._growth.run(imports)
            self._confinement.close_parent()
        except Exception as error:
            os.write(2, ("warm: %s\n" % error).encode("utf-8", "replace"))
            # Threads that should not be there are not waited for.
            os._exit(1)
        return loaded

    def _serve(self):
        try:
            message, control, _flags, _address = self._control.recvmsg(
                _REQUEST_SIZE, _CONTROL_SPACE
            )
        except ConnectionError:
            message = b""
        if not message:
            self._end()
        kind, ident = _REQUEST.unpack(message)
        if kind == _FORK and not control:
            # The kernel had no room for two more descriptors of this process.
            self._report(_FORK_FAILED, errno.EMFILE, ident, 0)
        elif kind == _FORK:
            fds = _DESCRIPTORS.unpack(control[0][2])
            try:
                self._fork(ident, fds)
            finally:
                for fd in fds:
                    os.close(fd)
        elif kind == _KILL:
            pid = self._pids.get(ident)
            if pid is not None:
                _kill(pid)

    def _fork(self, ident, fds):
        now = time.monotonic()
        hurried, self._forked_at = now - self._forked_at < _HURRY, now
        try:
            pid = self._confinement.fork()
        except OSError as error:
            self._report(_FORK_FAILED, error.errno, ident, 0)
            return
        if pid == 0:
            self._become_instance(fds, hurried)
        self._pids[ident] = pid
        self._ids[pid] = ident
        self._report(_FORKED, pid, ident, 0)

    def _become_instance(self, fds, hurried):
        """Turns this fork into an instance; never returns."""
        try:
            for call, arguments in _LEAVE_PARENT:
                call(*arguments)
            _arrange_descriptors(*fds)
            self._hooks.install()
            self._growth.separate()
            gc.enable()
            self._instance.run(self._prctl, hurried)
        except BaseException:
            # Nobody above this can handle it, and the parent's loop must not run here.
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    def _reap(self):
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            # What the instance left behind is killed while its id still belongs to it.
            _kill_group(ended.si_pid)
            pid, status, usage = os.wait4(ended.si_pid, 0)
            ident = self._ids.pop(pid, None)
            if ident is not None:
                del self._pids[ident]
                self._report(_EXITED, status, ident, usage.ru_maxrss * 1024)

    def _report(self, kind, value, ident, detail):
        try:
            self._control.send(_REPORT.pack(kind, value, ident, detail))
        except OSError:
            self._end()

    def _end(self):
        for pid in self._ids:
            _kill(pid)
        os._exit(0)


def _nothing(_signal, _frame):
    """Handles a signal. A function of the module: a fork that drops it does not free it."""


# What a fork does first, looked up in the parent.
_LEAVE_PARENT = (
    (os.setsid, ()),
    (_signal.set_wakeup_fd, (-1,)),
    (_signal.signal, (_signal.SIGCHLD, _signal.SIG_DFL)),
    (_signal.pthread_sigmask, (_signal.SIG_SETMASK, ())),
)


def _kill(pid):
    # The group does not exist before the instance has made it.
    _kill_group(pid)
    try:
        os.kill(pid, _signal.SIGKILL)
    except ProcessLookupError:
        pass


def _kill_group(pid):
    try:
        os.killpg(pid, _signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _warm_calls():
    """Has the names of their arguments looked up, as the first call does, before there are forks."""
    first = os.open(os.devnull, os.O_RDONLY)
    second = os.dup(first)
    os.dup2(first, second, inheritable=False)
    os.close(first)
    os.closerange(second, second + 1)
    try:
        os.register_at_fork()
    except (AttributeError, TypeError):
        # There is nothing to register, or no such call in an old interpreter.
        pass


def _arrange_descriptors(data, output):
    """Keeps standard input, the output pipe as 1 and 2, and the data socket as 3; no others."""
    # Copies above the range first: one of the two may be where the other has to go.
    high_data = os.dup(data)
    high_output = os.dup(output)
    while high_data <= DATA_FD or high_output <= DATA_FD:
        high_data, high_output = os.dup(high_data), os.dup(high_output)
    os.dup2(high_output, 1)
    os.dup2(high_output, 2)
    os.dup2(high_data, DATA_FD, inheritable=False)
    os.closerange(DATA_FD + 1, max(high_data, high_output) + 16)
