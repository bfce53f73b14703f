# SPDX-License-Identifier: Apache-2.0
"""Serves calls of an `async def` handler: every call is a task on one event loop.

The loop is uvloop's where the function brings it along, else asyncio's. The socket is read when
the loop says so and written directly; only what the kernel does not take waits for the loop.
"""

import collections
import select
import sys
import threading
import time

from _bugle import frames, results
from _bugle.context import Context, only_call, write_failure
from _bugle.memory import Memory

try:
    from contextvars import ContextVar
except ImportError:
    ContextVar = None

# Large; imported when the first host is made, where nobody has done it before.
asyncio = None

_monotonic = time.monotonic
_pack_header = frames.HEADER.pack


class Host(object):
    """The calls of one instance."""

    def __init__(self, channel, output):
        _import_asyncio()
        self._channel = channel
        self._output = output
        self.function = None
        self._handler = None
        self._loop = _new_loop()
        asyncio.set_event_loop(self._loop)
        self._stop = None
        self._error = None
        self.active = {}
        self._tasks = set()
        self._deadline_timer = None
        self._flush_due = False
        self._memory = Memory()
        self._current = None
        if ContextVar is not None:
            self._current = ContextVar("bugle_call", default=None)
        self._create_task = _task_factory(self._loop)

    def take(self, function, handler):
        """Takes calls of this function."""
        self.function = function
        self._handler = handler
        self._output.active = self.active
        self._output.find_call = self._find_call

    # -- what the rest of the instance needs --------------------------------------------------

    def finish(self, result):
        """Waits for the coroutine of a hook, on the loop of the calls."""
        if not hasattr(result, "__await__"):
            return result

        async def wait():
            return await result

        return self._loop.run_until_complete(wait())

    def serve(self):
        """Runs calls until the platform asks to stop and the last one is done."""
        loop = self._loop
        self._output.notify = self._flush_soon
        writer = self._writer = Writer(self._channel.use_loop(), loop)
        self._channel.send = writer.send
        self._channel.send_body = writer.send_body
        loop.add_reader(self._channel.fd, self._on_readable)
        # What came together with the START frame is in the buffer already.
        loop.call_soon(self._take_frames)
        try:
            loop.run_forever()
        finally:
            loop.remove_reader(self._channel.fd)
        if self._error is not None:
            raise self._error
        self._output.notify = None
        self._channel.leave_loop()
        writer.finish()
        return self._stop

    def send_stream(self, call, data):
        """Sends a message of a call's stream, after the lines written before it."""
        head = self._output.take(call, False) if call.lines is not None else b""
        self._channel.send_body(
            head + _pack_header(0, len(data), frames.STREAM, 0, 0, call.ident, 0), data
        )

    def wait_for_credit(self, stream):
        """Holds the whole loop while the client is slower than the handler.

        Whoever does not want that awaits `stream.drain()` between writes. Frames are taken here
        meanwhile, because the acknowledgement is one of them.
        """
        while stream.is_full():
            self._writer.wait()
            self._on_readable()
            if self._error is not None:
                raise self._error

    async def drain(self, stream):
        """Waits without holding the loop."""
        while stream.is_full():
            waiter = self._loop.create_future()
            stream.waiters.append(waiter)
            await waiter

    def interrupt(self, _thread):
        """Coroutines are cancelled, not interrupted."""
        return False

    # -- frames -------------------------------------------------------------------------------

    def _on_readable(self):
        try:
            self._channel.fill()
        except BlockingIOError:
            return
        except (frames.Closed, OSError) as error:
            self._error = error
            self._loop.stop()
            return
        self._take_frames()

    def _take_frames(self):
        while True:
            frame = self._channel.next_frame()
            if frame is None:
                return
            kind, flags, size, ident, value, meta, body = frame
            if kind == frames.CALL:
                call = Context(
                    self.function, self, ident, meta[:size], meta[size:], flags, value / 1000.0
                )
                self.active[ident] = call
                self._start(call, body)
            elif kind == frames.ACK:
                call = self.active.get(ident)
                if call is not None and call._stream is not None:
                    call._stream.acknowledge(value)
            elif kind == frames.STOP:
                self._stop = value
                if not self.active:
                    self._loop.stop()

    # -- one call -----------------------------------------------------------------------------

    def _find_call(self):
        """The call of the current task, or the only one there is."""
        call = None
        if self._current is not None:
            call = self._current.get()
        elif asyncio._get_running_loop() is not None:
            call = getattr(asyncio.Task.current_task(), "_bugle_call", None)
        return only_call(self.active) if call is None else call

    def _start(self, call, body):
        if self._deadline_timer is None:
            self._arm(call._deadline)
        task = self._create_task(self._run(call, body))
        if not task.done():
            call.thread = task
            if self._current is None:
                task._bugle_call = call

    async def _run(self, call, body):
        if self._current is not None:
            self._current.set(call)
        try:
            result = self._handler(results.parse_event(body, call.flags), call)
            if hasattr(result, "__await__"):
                result = await result
            elapsed = _monotonic() - call.started
            head, tail = results.result_frames(call.ident, result, int(elapsed * 1e6))
        except BaseException as error:
            if call.overdue and isinstance(error, asyncio.CancelledError):
                error = results.Overdue().with_traceback(error.__traceback__)
            elapsed = _monotonic() - call.started
            head, text = results.failure_frames(call, error, int(elapsed * 1e6))
            tail = b""
            write_failure(text)
        head = self._memory.frame(elapsed) + head
        del self.active[call.ident]
        if call.lines is not None:
            head = self._output.take(call, True) + head
        self._channel.send(head + tail)
        if self._stop is not None and not self.active:
            self._loop.stop()

    def _flush_soon(self, call):
        """Sends the lines of the calls when the loop comes round."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon_threadsafe(self._flush)

    def _flush(self):
        self._flush_due = False
        for call in list(self.active.values()):
            self._output.flush(call)

    # -- deadlines ----------------------------------------------------------------------------

    def _arm(self, deadline):
        # One timer for all calls: nearly every call is over long before its deadline.
        delay = max(0.0, deadline - _monotonic())
        self._deadline_timer = self._loop.call_later(min(delay, 3600.0), self._cancel_overdue)

    def _cancel_overdue(self):
        now = _monotonic()
        nearest = None
        for call in list(self.active.values()):
            if call.overdue:
                continue
            if call._deadline <= now:
                call.overdue = True
                call.thread.cancel()
            elif nearest is None or call._deadline < nearest:
                nearest = call._deadline
        self._deadline_timer = None
        if nearest is not None:
            self._arm(nearest)


class Writer(object):
    """Sends on a socket that does not block; takes the place of the channel's own sending."""

    def __init__(self, socket, loop):
        self._socket = socket
        self._loop = loop
        self._lock = threading.Lock()
        self._unsent = collections.deque()

    def send(self, data):
        """Sends whole frames, now or when the platform has read others."""
        with self._lock:
            if self._unsent:
                self._unsent.append(data)
                return
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            if sent == len(data):
                return
            self._unsent.append(memoryview(data)[sent:])
        # A thread of the handler may be the sender, and the loop is not for it to change.
        self._loop.call_soon_threadsafe(
            self._loop.add_writer, self._socket.fileno(), self._send_more
        )

    def send_body(self, head, body):
        """Sends frames whose last one has the given body."""
        self.send(head + body)

    def _send_more(self):
        with self._lock:
            while self._unsent:
                data = self._unsent[0]
                try:
                    sent = self._socket.send(data)
                except BlockingIOError:
                    return
                if sent < len(data):
                    self._unsent[0] = memoryview(data)[sent:]
                    return
                self._unsent.popleft()
            self._loop.remove_writer(self._socket.fileno())

    def wait(self):
        """Waits until something can be read, and sends meanwhile; for the loop's own thread."""
        poll = select.poll()
        while True:
            more = select.POLLOUT if self._unsent else 0
            poll.register(self._socket, select.POLLIN | more)
            ((_fd, events),) = poll.poll()
            if events & select.POLLOUT:
                self._send_more()
            if events & ~select.POLLOUT:
                return

    def finish(self):
        """Sends the rest, blocking."""
        with self._lock:
            while self._unsent:
                self._socket.sendall(self._unsent.popleft())


def _import_asyncio():
    global asyncio
    import asyncio


def _new_loop():
    try:
        # Only the function's own copy can be found here.
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _task_factory(loop):
    """Returns what makes a task; it runs to its first wait at once where Python can do that."""
    if sys.version_info >= (3, 12) and isinstance(loop, asyncio.SelectorEventLoop):

        def create(coroutine):
            return asyncio.Task(coroutine, loop=loop, eager_start=True)

        return create
    return loop.create_task
