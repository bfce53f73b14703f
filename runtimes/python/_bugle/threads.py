# SPDX-License-Identifier: Apache-2.0
"""Serves calls of plain functions: one thread reads, and runs what it has read.

The thread that reads a call runs its handler, so a short call costs no switch of threads. Whoever
holds the *baton* reads. There are two ways to go on while a handler runs:

* inline: the reader lays the baton down and takes it up again after the handler. The watcher, a
  thread that looks every two milliseconds while there is something to look at, takes the baton
  from a reader whose handler does not return, and gives it to another thread;
* handing over: the reader gives the baton to another thread before it runs the handler. This
  costs a switch for every call and gains that calls which wait overlap from the first moment.

The watcher changes from the first way to the second when handlers wait, and back when they are
short. An idle instance has no timer and no thread that wakes up.
"""

import os
import threading
import time
import _thread

from _bugle import frames, results
from _bugle.context import Context, only_call, write_failure
from _bugle.memory import Memory
from _bugle.watcher import Watcher

try:
    import ctypes
except ImportError:
    ctypes = None

_monotonic = time.monotonic
_get_ident = threading.get_ident
_pack_header = frames.HEADER.pack

if hasattr(threading, "get_native_id"):
    _get_system_id = threading.get_native_id
else:  # Python 3.7 and before

    def _get_system_id():
        return os.path.basename(os.readlink("/proc/thread-self"))


# A thread that had nothing to do for this many seconds ends.
_IDLE_THREAD = 30.0


class Worker(object):
    """A thread that runs handlers; it waits on its bell while others read."""

    __slots__ = ("_bell",)

    def __init__(self):
        self._bell = _thread.allocate_lock()
        self._bell.acquire()

    def ring(self):
        """Lets the thread go on, now or when it comes to wait."""
        try:
            self._bell.release()
        except RuntimeError:
            # Rung already.
            pass

    def wait(self, timeout=-1):
        """Waits to be rung; returns whether it was."""
        return self._bell.acquire(True, timeout)


class Host(object):
    """The calls of one instance."""

    def __init__(self, channel, output):
        self._channel = channel
        self._output = output
        self._current = output.current
        self.function = None
        self._handler = None
        self._baton = _thread.allocate_lock()
        self._idle = []  # workers without the baton; the last one reads next
        self._main = Worker()
        self._stop = None
        self._ended = False
        self._interrupting = _thread.allocate_lock()
        self._memory = Memory()
        self.active = {}
        self.system_ids = {}  # thread -> its number for the system, for the watcher
        self.handing_over = False
        self.reading = None  # the call that the holder of the baton runs inline
        self.started = 0
        self.run_time = 0.0
        self._watcher = Watcher(self, output)

    def take(self, function, handler):
        """Takes calls of this function."""
        self.function = function
        self._handler = handler
        self._output.active = self.active
        self._output.find_call = self._find_call

    # -- what the rest of the instance needs --------------------------------------------------

    def finish(self, result):
        """Waits for a coroutine that a plain function returned."""
        if not hasattr(result, "__await__"):
            return result
        import asyncio

        async def wait():
            return await result

        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(wait())
        finally:
            loop.close()

    def serve(self):
        """Runs calls until the platform asks to stop and the last one is done."""
        self._output.notify = self._watcher.notify
        self._watcher.start()
        self._baton.acquire()
        self._work(self._main)
        self._output.notify = None
        return self._stop

    def send_stream(self, call, data):
        """Sends a message of a call's stream, after the lines written before it."""
        head = self._output.take(call, False) if call.lines is not None else b""
        self._channel.send_body(
            head + _pack_header(0, len(data), frames.STREAM, 0, 0, call.ident, 0), data
        )

    def wait_for_credit(self, stream):
        """Blocks the handler while the client is slower than it."""
        if stream.is_full():
            stream.wait()

    async def drain(self, stream):
        """For a coroutine that a plain function runs by itself."""
        self.wait_for_credit(stream)

    def interrupt(self, thread):
        """Has `Overdue` raised in a thread; returns whether that was possible."""
        return _set_async_exception(thread, results.Overdue)

    def interrupt_call(self, call):
        """Has `Overdue` raised in the handler of the call, and never after it."""
        call.overdue = True
        with self._interrupting:
            if not call.done:
                _set_async_exception(call.thread, results.Overdue)

    # -- the baton ----------------------------------------------------------------------------

    def _work(self, worker):
        """Reads and runs calls whenever this thread has the baton, which it has now."""
        self.system_ids[_get_ident()] = _get_system_id()
        while True:
            try:
                self._lead(worker)
            except (frames.Closed, OSError):
                # The platform is gone, so nobody waits for anything here.
                os._exit(1)
            if self._ended or not self._wait_for_baton(worker):
                del self.system_ids[_get_ident()]
                return

    def _wait_for_baton(self, worker):
        """Waits until the baton is passed to this thread; False if the thread shall end."""
        self._idle.append(worker)
        if worker is self._main:
            if self._ended:
                return False
            worker.wait()
            return not self._ended
        if worker.wait(_IDLE_THREAD):
            return True
        try:
            self._idle.remove(worker)
        except ValueError:
            # Chosen just now: the bell is about to ring.
            return worker.wait()
        return False

    def _lead(self, worker):
        """Reads calls and runs them, until another thread reads."""
        receive = self._channel.receive
        baton = self._baton
        watcher = self._watcher
        active = self.active
        while True:
            kind, flags, size, ident, value, meta, body = receive()
            if kind == frames.CALL:
                call = Context(
                    self.function, self, ident, meta[:size], meta[size:], flags, value / 1000.0
                )
                active[ident] = call
                self.started += 1
                if watcher.asleep:
                    watcher.wake()
                if not (self.handing_over and self._pass_baton()):
                    self.reading = call
                    baton.release()
                self.run(call, body)
                if not baton.acquire(False):
                    return
            elif kind == frames.ACK:
                call = active.get(ident)
                if call is not None and call._stream is not None:
                    call._stream.acknowledge(value)
            elif kind == frames.STOP:
                self._stop = value
                if not active:
                    self._end()
                    return
                # A thread that reads cannot be woken, and the main one has to be.
                if worker is self._main and self._pass_baton():
                    return

    def _pass_baton(self):
        """Gives the baton, which the caller has, to another thread; False if there is none."""
        self.reading = None
        try:
            worker = self._idle.pop()
        except IndexError:
            pass
        else:
            worker.ring()
            return True
        thread = threading.Thread(
            target=self._work, args=(Worker(),), name="handler", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # No more threads can be had; the calls queue up instead.
            return False
        return True

    def take_baton(self):
        """Has another thread read, if the reader is inside a handler; whether it was."""
        if not self._baton.acquire(False):
            return False
        self.handing_over = True
        if not self._pass_baton():
            self._baton.release()
        return True

    def is_queued(self):
        """Whether a frame waits to be read."""
        return self._channel.waiting()

    def _end(self):
        self._ended = True
        self._main.ring()

    # -- one call -----------------------------------------------------------------------------

    def _find_call(self):
        """The call that the current thread works for, or the only one there is."""
        call = self._current.call
        return only_call(self.active) if call is None else call

    def run(self, call, body):
        """Runs the handler and sends what came of it."""
        call.thread = _get_ident()
        self._current.call = call
        try:
            try:
                result = self._handler(results.parse_event(body, call.flags), call)
                if hasattr(result, "__await__"):
                    result = self.finish(result)
            finally:
                call.done = True
                if call.overdue:
                    self._settle(call)
            elapsed = _monotonic() - call.started
            head, tail = results.result_frames(call.ident, result, int(elapsed * 1e6))
        except BaseException as error:
            elapsed = _monotonic() - call.started
            head, text = results.failure_frames(call, error, int(elapsed * 1e6))
            tail = b""
            write_failure(text)
        if self.reading is call:
            # From here on this thread is as good as reading.
            self.reading = None
        self._current.call = None
        self.run_time += elapsed
        head = self._memory.frame(elapsed) + head
        del self.active[call.ident]
        if call.lines is not None:
            head = self._output.take(call, True) + head
        if tail:
            self._channel.send_body(head, tail)
        else:
            self._channel.send(head)
        if self._stop is not None and not self.active:
            self._end()

    def _settle(self, call):
        """Takes back an interruption that came too late."""
        with self._interrupting:
            _set_async_exception(call.thread, None)


def _set_async_exception(thread, kind):
    if ctypes is None:
        return False
    found = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if kind is None else ctypes.py_object(kind)
    )
    return found == 1
