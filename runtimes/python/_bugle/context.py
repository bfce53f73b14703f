# SPDX-License-Identifier: Apache-2.0
"""What a handler is given beside the event. The names are the contract's, whatever their style."""

import json
import logging
import sys
import threading
import time

from _bugle import frames

_monotonic = time.monotonic

# The largest single write to a stream, until the handler asks for another.
_STREAM_WRITE = 4 * 1024 * 1024


class Function(object):
    """What is the same for every call of an instance."""

    def __init__(self, start, output):
        self.start = start
        self._output = output
        self._logger = None
        self.function = start["function"]
        self.user_data = start["user_data"]
        self.timeout = start["timeout_ms"] / 1000.0
        self.credentials = dict.fromkeys(
            (
                "access_key",
                "secret_key",
                "auth_token",
                "security_access_key",
                "security_secret_key",
                "security_token",
            ),
            "",
        )
        self.window = start["stream_window"]

    def logger(self):
        """The logger whose lines carry time, level and request id."""
        if self._logger is None:
            logger = logging.getLogger("function")
            logger.setLevel(logging.INFO)
            logger.propagate = False
            handler = logging.StreamHandler(self._output.stderr)
            handler.setFormatter(_Formatter(self._output))
            # Two threads may be here for the first time.
            logger.handlers[:] = [handler]
            self._logger = logger
        return self._logger


class _Formatter(logging.Formatter):
    def __init__(self, output):
        logging.Formatter.__init__(self, "%(asctime)s %(levelname)s %(request)s %(message)s")
        self.converter = time.gmtime
        self._output = output

    def formatTime(self, record, datefmt=None):
        text = time.strftime("%Y-%m-%dT%H:%M:%S", self.converter(record.created))
        return "%s.%03dZ" % (text, record.msecs)

    def format(self, record):
        call = self._output.find_call()
        record.request = "-" if call is None else call.getRequestID()
        return logging.Formatter.format(self, record)


class Context(object):
    """One call, and the first call's stand-in for the initializer."""

    __slots__ = (
        "_function",
        "_request",
        "_meta",
        "_values",
        "_deadline",
        "_stream",
        "_state",
        "_host",
        "ident",
        "lines",
        "flags",
        "started",
        "thread",
        "done",
        "overdue",
        "__dict__",
    )

    def __init__(self, function, host, ident, request, meta, flags, timeout):
        self._function = function
        self._host = host
        self.ident = ident
        self._request = request
        self._meta = meta
        self._values = None
        self.flags = flags
        self.started = now = _monotonic()
        self._deadline = now + timeout
        self._stream = None
        self._state = None
        self.lines = None
        self.thread = 0
        self.done = False
        self.overdue = False

    # -- the request --------------------------------------------------------------------------

    def getRequestID(self):
        """The trace id of the call."""
        return self._request.decode("utf-8", "replace")

    get_request_id = getRequestID
    get_trace_id = getRequestID
    getTraceID = getRequestID
    get_invoke_id = getRequestID

    def _get(self, name, default=""):
        values = self._values
        if values is None:
            values = self._values = json.loads(self._meta.decode("utf-8")) if self._meta else {}
        value = values.get(name)
        return default if value is None else value

    def get_headers(self):
        """The headers of the request, by lower-case name."""
        return self._get("headers", {})

    def get_header(self, name, default=None):
        """One header, whatever the case of its name."""
        return self.get_headers().get(name.lower(), default)

    def get_query(self):
        """The query string, without the question mark."""
        return self._get("query")

    def get_path(self):
        """The path of the request."""
        return self._get("path")

    def get_method(self):
        """The method of the request."""
        return self._get("method")

    def get_content_type(self):
        """The content type of the body."""
        return self._get("content_type")

    def get_traceparent(self):
        """The W3C trace context of the call."""
        return self._get("traceparent")

    getTraceParent = get_traceparent

    def get_invoke_property(self):
        """The tags of the request (`X-Invoke-Tag`)."""
        try:
            tags = json.loads(self.get_header("x-invoke-tag", "{}"))
        except ValueError:
            return {}
        return tags if isinstance(tags, dict) else {}

    def get_session_id(self):
        """The session of the request (`X-Instance-Session`)."""
        try:
            session = json.loads(self.get_header("x-instance-session", "{}"))
        except ValueError:
            return ""
        return session.get("sessionID", "") if isinstance(session, dict) else ""

    def get_session_service(self):
        """None: the function has no agent session."""
        return None

    # -- time ---------------------------------------------------------------------------------

    def getRunningTimeInSeconds(self):
        """The time limit of a call, in seconds (the name is the contract's)."""
        return int(self._function.timeout)

    def getRemainingTimeInMilliSeconds(self):
        """How long the call may still run."""
        return max(0, int((self._deadline - _monotonic()) * 1000))

    # -- the function -------------------------------------------------------------------------

    def getProjectID(self):
        """The owner of the function."""
        return self._function.function["tenant"]

    getTenantID = getProjectID

    def getPackage(self):
        """The service of the function."""
        return self._function.function["service"]

    def getFunctionName(self):
        """The short name of the function."""
        return self._function.function["name"]

    def getVersion(self):
        """The version of the function."""
        return self._function.function["version"]

    def getAlias(self):
        """The alias by which the function was called."""
        return self._get("alias")

    def getMemorySize(self):
        """The memory of the instance, in MB."""
        return self._function.start["memory_mb"]

    def getCPUNumber(self):
        """The processor share of the instance, in thousandths of a core."""
        return self._function.start["cpu_millis"]

    def getUserData(self, key, default=None):
        """One variable of the function's environment."""
        return self._function.user_data.get(key, default)

    def get_instance_id(self):
        """The identity of the instance."""
        return self._function.start["instance"]

    def getInstanceLabel(self):
        """The label of the instance's set, or nothing."""
        return self._function.function["label"]

    get_instance_label = getInstanceLabel

    # -- credentials, normally empty ----------------------------------------------------------

    def getAccessKey(self):
        """The access key of the agency."""
        return self._function.credentials["access_key"]

    def getSecretKey(self):
        """The secret key of the agency."""
        return self._function.credentials["secret_key"]

    def getAuthToken(self):
        """The token of the agency."""
        return self._function.credentials["auth_token"]

    def getSecurityAccessKey(self):
        """The temporary access key of the agency."""
        return self._function.credentials["security_access_key"]

    def getSecuritySecretKey(self):
        """The temporary secret key of the agency."""
        return self._function.credentials["security_secret_key"]

    def getSecurityToken(self):
        """The temporary token of the agency."""
        return self._function.credentials["security_token"]

    def setAccessKey(self, value):
        """Sets the access key of the agency."""
        self._function.credentials["access_key"] = value

    def setSecretKey(self, value):
        """Sets the secret key of the agency."""
        self._function.credentials["secret_key"] = value

    def setAuthToken(self, value):
        """Sets the token of the agency."""
        self._function.credentials["auth_token"] = value

    def setSecurityAccessKey(self, value):
        """Sets the temporary access key of the agency."""
        self._function.credentials["security_access_key"] = value

    def setSecuritySecretKey(self, value):
        """Sets the temporary secret key of the agency."""
        self._function.credentials["security_secret_key"] = value

    def setSecurityToken(self, value):
        """Sets the temporary token of the agency."""
        self._function.credentials["security_token"] = value

    # -- tools --------------------------------------------------------------------------------

    def getLogger(self):
        """A standard logger whose lines carry time, level and request id."""
        return self._function.logger()

    def get_state(self):
        """What `set_state` was given; it lives as long as this context."""
        return self._state

    def set_state(self, state):
        """Keeps a value with this context."""
        self._state = state

    getState = get_state
    setState = set_state

    def get_stream(self):
        """Where a handler writes what the client shall see before the result."""
        if self._stream is None:
            self._stream = Stream(self)
        return self._stream

    getStream = get_stream


class Stream(object):
    """Messages to the client while the handler runs.

    Without a client that asked for them (`Accept: text/event-stream`) writes do nothing. `write`
    waits while too much of this call is under way; the platform acknowledges what the client has
    taken.
    """

    def __init__(self, context):
        self._context = context
        self._limit = _STREAM_WRITE
        self._window = context._function.window
        self._under_way = 0
        self._credit = threading.Condition(threading.Lock())
        # Futures of coroutines that wait for room.
        self.waiters = []

    def set_max_write_size(self, size):
        """Changes the largest size of one write, in bytes."""
        if not 0 < size <= _STREAM_WRITE:
            raise ValueError("the write size must be between 1 and %d bytes" % _STREAM_WRITE)
        self._limit = size

    def write(self, text):
        """Sends one message."""
        if not isinstance(text, str):
            raise TypeError("stream.write takes a str, not " + type(text).__name__)
        data = text.encode("utf-8", "replace")
        if len(data) > self._limit:
            raise ValueError(
                "a stream message of %d bytes exceeds the limit of %d" % (len(data), self._limit)
            )
        context = self._context
        if not context.flags & frames.STREAM_WANTED:
            return
        context._host.wait_for_credit(self)
        with self._credit:
            self._under_way += len(data)
        context._host.send_stream(context, data)

    def is_full(self):
        """Whether a write would have to wait."""
        return self._under_way >= self._window

    def wait(self, timeout=None):
        """Waits until a write has room, for the host of threads."""
        with self._credit:
            self._credit.wait_for(lambda: not self.is_full(), timeout)

    def acknowledge(self, count):
        """The platform has taken `count` bytes."""
        with self._credit:
            self._under_way -= count
            self._credit.notify_all()
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        del self.waiters[:]

    async def drain(self):
        """Waits, in an `async def` handler, until a write has room."""
        await self._context._host.drain(self)


def only_call(calls):
    """The one call of `calls`, if there is just one."""
    if len(calls) == 1:
        # A copy, because another thread may end the call at this moment.
        for call in list(calls.values()):
            return call
    return None


def write_failure(text):
    """Shows a failure of user code among the lines of the call."""
    sys.stderr.write(text if text.endswith("\n") else text + "\n")
