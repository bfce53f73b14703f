# SPDX-License-Identifier: Apache-2.0
"""The thread that looks after the handlers of an instance while there are any.

It takes the baton from a reader whose handler does not return, sends lines of calls that go on,
interrupts overdue calls, and chooses between running inline and handing over. It looks every two
milliseconds while calls come in, and sleeps while none does, until the next deadline.
"""

import io
import resource
import time
import _thread

_monotonic = time.monotonic

# Longer than nearly every handler that only computes, shorter than anybody notices.
TICK = 0.002
# A handler that has computed for so many looks has another thread read as well.
_LONG_LOOKS = 25
# The longest sleep; the system's limit for a lock is far above.
_LONGEST = 3600.0
# Running inline is judged after this many looks, handing over after this many calls.
_JUDGED_LOOKS = 8
_JUDGED_CALLS = 16
# Handlers of at most this mean length are worth an attempt to run inline.
_SHORT = 0.001
# An attempt that was given up sooner than this after it began has failed.
_TRIAL = 0.25
# The time between attempts: doubled by each failed one.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0


class Watcher(object):
    """Watches the handlers of one host of threads."""

    def __init__(self, host, output):
        self._host = host
        self._output = output
        self._bell = _thread.allocate_lock()
        self._bell.acquire()
        self.asleep = False
        self._judged_started = 0
        self._judged_run_time = 0.0
        self._looks = 0
        self._queued_looks = 0
        self._waits = 0
        self._inline_since = 0.0
        self._seen_call = None
        self._seen_looks = 0
        self._seen_times = None
        self._next_trial = 0.0
        self._pause = _FIRST_PAUSE

    def start(self):
        """Starts the thread. It is no `threading.Thread`: user code has no business with it."""
        _thread.start_new_thread(self._run, ())

    def wake(self):
        """Something happened that is to be looked at after the next tick."""
        self.asleep = False
        try:
            self._bell.release()
        except RuntimeError:
            # Another thread was faster.
            pass

    def notify(self, _call):
        """A call has written lines."""
        if self.asleep:
            self.wake()

    def _run(self):
        host = self._host
        seen_started = 0
        while True:
            started = host.started
            call = host.reading
            if call is not None:
                self._look_at_reader(call)
            deadline = self._look_at_calls()
            self._judge(call)
            if started != seen_started or host.reading is not None:
                seen_started = started
                time.sleep(TICK)
                continue
            self._sleep(started, deadline)

    def _look_at_calls(self):
        """Sends lines, interrupts what is overdue; returns the next deadline."""
        now = _monotonic()
        nearest = now + _LONGEST
        for call in list(self._host.active.values()):
            self._output.flush(call)
            if call.overdue:
                continue
            if call._deadline <= now:
                self._host.interrupt_call(call)
            elif call._deadline < nearest:
                nearest = call._deadline
        return nearest

    def _sleep(self, started, deadline):
        """Sleeps until a call starts or writes, or until the deadline."""
        self.asleep = True
        # What happened before the line above rang no bell.
        if self._host.started == started and not self._has_lines():
            timeout = deadline - _monotonic()
            if timeout > 0:
                self._bell.acquire(True, timeout)
        self.asleep = False
        time.sleep(TICK)

    def _has_lines(self):
        for call in list(self._host.active.values()):
            if call.lines is not None and call.lines.ready:
                return True
        return False

    def _look_at_reader(self, call):
        """Has another thread read than one whose handler waits, or computes for long."""
        if call is not self._seen_call:
            self._seen_call = call
            self._seen_looks = 0
            return
        self._seen_looks += 1
        if self._seen_looks == 1:
            self._seen_times = self._times_of(call)
        elif self._has_waited(call):
            queued = self._host.is_queued()
            if self._host.take_baton() and queued:
                self._put_off_inline()
        elif self._seen_looks >= _LONG_LOOKS:
            self._host.take_baton()

    def _has_waited(self, call):
        """Whether the thread of the call has mostly waited since the look before.

        On a busy machine a thread that computes may get no processor for long. It gains nothing
        from another reader, so the time in the queue for a processor counts as computing.
        """
        before, self._seen_times = self._seen_times, self._times_of(call)
        if before is None or self._seen_times is None:
            return True
        clock, busy = (now - then for now, then in zip(self._seen_times, before))
        return busy * 2 < clock

    def _times_of(self, call):
        """The clock, and how long the thread of the call has had or wanted a processor."""
        try:
            path = "/proc/self/task/%s/schedstat" % self._host.system_ids[call.thread]
            with io.open(path, "rb", 0) as file:
                run, queued, _slices = file.read().split()
        except (KeyError, OSError, ValueError):
            # The kernel does not count, or the call is over.
            return None
        return _monotonic(), (int(run) + int(queued)) * 1e-9

    def _judge(self, reading):
        """Chooses the way of running, from what happened since the last choice."""
        host = self._host
        calls = host.started - self._judged_started
        if host.handing_over:
            if calls < _JUDGED_CALLS:
                return
            run_time = host.run_time - self._judged_run_time
            now = _monotonic()
            if run_time < calls * _SHORT and now >= self._next_trial:
                host.handing_over = False
                self._inline_since = now
        else:
            self._looks += 1
            if reading is not None and host.is_queued():
                self._queued_looks += 1
            if self._looks < _JUDGED_LOOKS:
                return
            if self._handlers_wait(calls):
                host.handing_over = True
                self._put_off_inline()
        self._forget()

    def _put_off_inline(self):
        """Calls had to wait for one another; inline is tried again later, and later each time."""
        now = _monotonic()
        failed = now - self._inline_since < _TRIAL
        self._pause = min(self._pause * 2, _LONGEST_PAUSE) if failed else _FIRST_PAUSE
        self._next_trial = now + self._pause

    def _handlers_wait(self, calls):
        """Whether calls were queued behind handlers that waited instead of computing.

        A handler that computes gives the processor up only when the kernel takes it; one that
        waits does so itself at least once. The share of processor time would say the same on an
        idle machine and be wrong on a busy one.
        """
        waits = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        own = 2 * self._looks
        waited = waits - self._waits - own
        return self._queued_looks * 2 >= self._looks and calls > 0 and waited * 2 > calls

    def _forget(self):
        self._judged_started = self._host.started
        self._judged_run_time = self._host.run_time
        self._waits = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        self._looks = 0
        self._queued_looks = 0
