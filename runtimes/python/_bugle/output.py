# SPDX-License-Identifier: Apache-2.0
"""Standard output and error of an instance, with each line given to the call that wrote it.

`print` writes here instead of to a descriptor. What a call writes is kept with the call and goes
out with its result, or a moment later, when the call's thread goes on working, or when there is
much of it. What is written outside of calls goes out line by line. Output that does not
come through `sys.stdout` (subprocesses, C code) arrives at the platform through a pipe.
"""

import io
import os
import sys
import threading

from _bugle import frames

# Of one call; then the lines are sent before its end.
_SEND_AT = 8 * 1024
# Longer lines are cut into pieces of at least this size.
_PARTIAL_LIMIT = 64 * 1024
# The largest body of a LOG frame.
_FRAME_LIMIT = 256 * 1024


class Current(threading.local):
    """The call that the current thread works for."""

    call = None


class Lines(object):
    """What one call has written and the platform has not seen."""

    __slots__ = ("ready", "size", "partial")

    def __init__(self):
        self.ready = []  # (flags, bytes), each of whole lines
        self.size = 0
        self.partial = [b"", b""]  # by flags: a line that has no end yet


class Output(object):
    """Collects lines by call, and makes frames of them."""

    def __init__(self, channel):
        self._channel = channel
        self._lock = threading.Lock()
        self._own = Lines()
        self._detached = False
        self.current = Current()
        # What is asked for the call of this moment, and told that a call has lines to be sent.
        self.find_call = self._find_by_thread
        self.notify = None
        self.stdout = Stream(self, 0, 1, "<stdout>")
        self.stderr = Stream(self, frames.STDERR, 2, "<stderr>")
        # Kept, as a fork would take them apart when it replaces them.
        self._replaced = (sys.stdout, sys.stderr)
        # A forked copy of an instance must not write into the instance's conversation. What is
        # registered in the parent counts for the forks of its forks.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._detach)
        plain_exit = os._exit

        def flush_and_exit(status):
            self.flush_all()
            plain_exit(status)

        os._exit = flush_and_exit

    def install(self):
        """Becomes `sys.stdout` and `sys.stderr`, in a fork."""
        sys.stdout = sys.__stdout__ = self.stdout
        sys.stderr = sys.__stderr__ = self.stderr
        if not hasattr(os, "register_at_fork"):  # Python 3.6
            plain_fork = os.fork

            def fork():
                pid = plain_fork()
                if pid == 0:
                    self._detach()
                return pid

            os.fork = fork

    def _find_by_thread(self):
        return self.current.call

    def write(self, flags, data):
        """Takes a piece of output of the current call."""
        if self._detached:
            os.write(2 if flags else 1, data)
            return
        call = self.find_call()
        if call is None:
            self._write_outside(flags, data)
            return
        with self._lock:
            lines = call.lines
            if lines is None:
                lines = call.lines = Lines()
            _append(lines, flags, data)
            send = lines.size > _SEND_AT
        if send:
            self.flush(call)
        elif self.notify is not None:
            self.notify(call)

    def _write_outside(self, flags, data):
        with self._lock:
            _append(self._own, flags, data)
            out = _take(self._own, 0)
        if out:
            self._channel.send(out)

    def take(self, call, everything):
        """Returns the frames of what the call wrote; with the unfinished line if `everything`."""
        with self._lock:
            lines = call.lines
            if everything:
                for flags in (0, frames.STDERR):
                    if lines.partial[flags]:
                        _ready(lines, flags, lines.partial[flags])
                        lines.partial[flags] = b""
            return _take(lines, call.ident)

    def flush(self, call):
        """Sends the whole lines of the call."""
        if call.lines is not None and call.lines.ready:
            self._channel.send(self.take(call, False))

    # Set by the serving loop: the calls that run.
    active = None

    def flush_all(self):
        """Sends whatever is there, because the process is about to end."""
        # The thread that ends the process may have been interrupted in here.
        if self._detached or not self._lock.acquire(True, 0.1):
            return
        try:
            out = []
            owners = [(self._own, 0)]
            for call in list((self.active or {}).values()):
                if call.lines is not None:
                    owners.append((call.lines, call.ident))
            for lines, ident in owners:
                for flags in (0, frames.STDERR):
                    if lines.partial[flags]:
                        _ready(lines, flags, lines.partial[flags])
                        lines.partial[flags] = b""
                out.append(_take(lines, ident))
        finally:
            self._lock.release()
        data = b"".join(out)
        if data:
            try:
                self._channel.send(data)
            except (OSError, frames.Closed):
                pass

    def _detach(self):
        self._detached = True
        self._lock = threading.Lock()
        self._channel.close()


def _append(lines, flags, data):
    """Adds `data`; whole lines become ready."""
    end = data.rfind(b"\n") + 1
    partial = lines.partial
    if end == len(data):
        whole = partial[flags] + data if partial[flags] else data
        partial[flags] = b""
    elif end:
        whole = partial[flags] + data[:end]
        partial[flags] = data[end:]
    elif len(partial[flags]) + len(data) > _PARTIAL_LIMIT:
        whole = partial[flags] + data
        partial[flags] = b""
    else:
        partial[flags] += data
        return
    _ready(lines, flags, whole)


def _ready(lines, flags, data):
    lines.ready.append((flags, data))
    lines.size += len(data)


def _take(lines, ident):
    """Makes frames of what is ready, neighbours of one stream in one frame."""
    if not lines.ready:
        return b""
    out = []
    run = []
    run_flags = lines.ready[0][0]
    for flags, data in lines.ready:
        if flags != run_flags:
            out.extend(_frames_of(ident, run_flags, b"".join(run)))
            run, run_flags = [], flags
        run.append(data)
    out.extend(_frames_of(ident, run_flags, b"".join(run)))
    lines.ready = []
    lines.size = 0
    return b"".join(out)


def _frames_of(ident, flags, data):
    """Cuts what is too large for one frame; it is one overlong line, or one huge write."""
    for at in range(0, len(data), _FRAME_LIMIT):
        body = data[at : at + _FRAME_LIMIT]
        yield frames.frame(frames.LOG, ident, body=body, flags=flags)


class Stream(io.TextIOBase):
    """A text stream whose text goes to an `Output`."""

    encoding = "utf-8"
    errors = "backslashreplace"
    newlines = None
    line_buffering = True
    mode = "w"

    def __init__(self, output, flags, fd, name):
        self._output = output
        self._flags = flags
        self._fd = fd
        self.name = name
        self.buffer = Bytes(output, flags, fd, name)

    def write(self, text):
        """Takes text."""
        if text.__class__ is not str and not isinstance(text, str):
            raise TypeError("write() argument must be str, not " + type(text).__name__)
        if text:
            self._output.write(self._flags, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def writable(self):
        """Always."""
        return True

    def fileno(self):
        """The descriptor, for subprocesses."""
        return self._fd

    def isatty(self):
        """Never."""
        return False

    def flush(self):
        """Does nothing: whole lines are on their way already."""

    def close(self):
        """Does nothing, as for any program's standard streams there is a later writer."""

    def reconfigure(self, **_options):
        """Does nothing: the encoding is always UTF-8."""

    def detach(self):
        """Returns the byte stream, which stays in use."""
        return self.buffer


class Bytes(io.RawIOBase):
    """The byte side of a `Stream`."""

    mode = "wb"

    def __init__(self, output, flags, fd, name):
        self._output = output
        self._flags = flags
        self._fd = fd
        self.name = name

    def write(self, data):
        """Takes bytes."""
        data = bytes(data)
        if data:
            self._output.write(self._flags, data)
        return len(data)

    def writable(self):
        """Always."""
        return True

    def fileno(self):
        """The descriptor, for subprocesses."""
        return self._fd

    def close(self):
        """Does nothing, like that of the text stream."""
