# SPDX-License-Identifier: Apache-2.0
"""The life of an instance: its START frame, the user's code, calls, and the end."""

import atexit
import json
import os
import sys
import threading
import time
import types

from _bugle import coroutines, frames, loader, results, threads
from _bugle.context import Context, Function, write_failure
from _bugle.output import Output
from _bugle.rehearsal import rehearse

_PR_SET_NAME = 15

# Reads JSON that begins with its first character.
_scan = json.JSONDecoder().scan_once

# The durations of a start.
_PHASES = b'{"load_us":%d,"init_us":%d}'

# More than what Python's interpreter takes to adapt its code to what it meets. That is written
# into the code: done here, it is shared by all forks, which otherwise copy the page to write it.
_REHEARSALS = 20


class Instance(object):
    """What does not depend on the function; made by the parent, used by the fork."""

    def __init__(self, confinement, fd):
        """`fd` is where the socket to the platform will be in a fork."""
        self._confinement = confinement
        self._channel = frames.Channel(fd)
        self._output = Output(self._channel)
        self._host = threads.Host(self._channel, self._output)

    def warm_up(self):
        """Has the parent do what every fork will do, so that the forks find it done."""
        # The main module is the parent's, and a process that user code starts might import it.
        self._main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        sys.argv = [""]
        loader.clear_environment()
        for _ in range(_REHEARSALS):
            rehearse(threads.Host, self._output)

    def run(self, prctl, hurried):
        """Serves the platform on its socket; ends the process.

        One that is `hurried` does not use the time in which nobody waits for it: there is none.
        """
        channel, output = self._channel, self._output
        output.install()
        try:
            if not hurried and not channel.waiting():
                rehearse(threads.Host, output)
            refused = self._park()
            # A parked instance waits here until a function needs it.
            frame, code_fd = channel.receive_start()
        except (frames.Closed, OSError):
            os._exit(0)
        began = time.monotonic()
        start, _end = _scan(frame[5].decode("utf-8"), 0)
        try:
            if refused is not None:
                raise refused
            self._confinement.finish(start["code"], code_fd)
        except BaseException as error:
            _report_refusal(channel, self._confinement.explain(error))
            os._exit(1)
        try:
            _enter(start, prctl)
            if frame[6]:
                loader.prepare(start["code"], start["handler"], frame[6])
            host, phases = self._load(start, Function(start, output), began)
        except BaseException as error:
            _report_failure(channel, output, error)
            os._exit(1)
        channel.send(frames.frame(frames.READY, meta=_PHASES % phases))
        _exit(_serve(start, host))


    def _park(self):
        """Returns why this process cannot become an instance; told when one is wanted."""
        try:
            self._confinement.park()
            return None
        except Exception as error:
            return error

    def _load(self, start, function, began):
        """Imports the handler and runs the initializer; returns the host and the durations."""
        handler = loader.find(start["code"], start["handler"])
        host = self._host
        if loader.is_coroutine_function(handler):
            host = coroutines.Host(self._channel, self._output)
        host.take(function, handler)
        initializer = None
        if start["initializer"]:
            initializer = loader.find(start["code"], start["initializer"])
        loaded = time.monotonic()
        if initializer is not None:
            timeout = start["initializer_timeout_ms"] / 1000.0
            host.finish(initializer(Context(function, host, 0, b"", b"", 0, timeout)))
        done = time.monotonic()
        return host, (int((loaded - began) * 1e6), int((done - loaded) * 1e6))


def _serve(start, host):
    """Serves calls until the end; returns the exit code."""
    try:
        host.serve()
        _run_pre_stop(start, host)
        return 0
    except (frames.Closed, ConnectionError):
        # The platform is gone; nobody waits for an orderly end.
        return 1
    except BaseException as error:
        write_failure(results.format_trace(error))
        return 1


def _enter(start, prctl):
    """Gives the process the environment, directory and randomness of its own."""
    loader.set_environment(start["environment"])
    if "TZ" in start["environment"]:
        time.tzset()
    os.chdir(start["code"])
    if prctl is not None:
        name = ("py:" + start["function"]["name"]).encode("ascii", "replace")
        prctl(_PR_SET_NAME, name[:15], 0, 0, 0)
    loader.prepare_path(start["code"])


def _report_failure(channel, output, error):
    trace = results.format_trace(error)
    if isinstance(error, loader.LoadError):
        message, trace = str(error), None
    elif isinstance(error, SystemExit):
        message = "user code sys.exit()."
    else:
        message = "%s: %s" % (results.name_of(error), error)
    write_failure(trace or message)
    output.flush_all()
    meta = {"message": message, "trace": trace, "platform": False}
    channel.send(frames.frame(frames.START_FAILED, meta=json.dumps(meta).encode("ascii")))


def _report_refusal(channel, message):
    meta = {"message": message, "trace": None, "platform": True}
    channel.send(frames.frame(frames.START_FAILED, meta=json.dumps(meta).encode("ascii")))


def _run_pre_stop(start, host):
    """Runs the user's pre_stop within its time; what it raises does not stop the end."""
    if not start["pre_stop"]:
        return
    try:
        pre_stop = loader.find(start["code"], start["pre_stop"])
    except BaseException as error:
        write_failure(results.format_trace(error))
        return

    def run():
        try:
            host.finish(pre_stop())
        except BaseException as error:
            write_failure(results.format_trace(error))

    thread = threading.Thread(target=run, name="pre_stop", daemon=True)
    thread.start()
    thread.join(start["pre_stop_timeout_ms"] / 1000.0)
    # The platform's patience ends the process if the thread does not listen.
    while thread.is_alive() and host.interrupt(thread.ident):
        thread.join(1.0)


def _exit(status):
    """Ends the process: what user code registered runs, other threads are not waited for."""
    try:
        atexit._run_exitfuncs()
    except BaseException as error:
        write_failure(results.format_trace(error))
    os._exit(status)
