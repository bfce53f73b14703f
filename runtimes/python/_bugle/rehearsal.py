# SPDX-License-Identifier: Apache-2.0
"""Does what a start and a first call do, before there is a function to start.

A fork shares the pages of its parent until it writes to them, and Python writes to every object
that it looks at. Most of a cold start is the kernel copying such pages, and they are the same ones
every time. A process that is parked has the time to let them be copied before a call waits for it.
"""

import json
import os
import sys

from _bugle import frames, loader
from _bugle.context import Context, Function

CODE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "rehearsal")

_VARIABLES = {"LANG": "C.UTF-8"}

_START = {
    "instance": "",
    "handler": "function.handler",
    "initializer": None,
    "initializer_timeout_ms": 0,
    "pre_stop": None,
    "pre_stop_timeout_ms": 0,
    "code": CODE,
    "environment": {},
    "user_data": {},
    "timeout_ms": 1000,
    "memory_mb": 128,
    "cpu_millis": 100,
    "function": {"tenant": "", "service": "", "name": "", "version": "", "label": ""},
    "stream_window": 1,
}


class _Nowhere(object):
    """A channel whose other end does not exist."""

    def send(self, data):
        """Takes frames."""

    def send_body(self, head, body):
        """Takes frames."""


def rehearse(make_host, output):
    """Loads and calls the function beside this package, and leaves no trace of it.

    `make_host` makes a host of threads, as for a start.
    """
    path = list(sys.path)
    find_call, active = output.find_call, output.active
    start = json.loads(json.dumps(_START))
    try:
        loader.set_environment(_VARIABLES)
        loader.prepare_path(start["code"])
        handler = loader.find(start["code"], start["handler"])
        loader.is_coroutine_function(handler)
        host = make_host(_Nowhere(), output)
        host.take(Function(start, output), handler)
        call = Context(host.function, host, 1, b"request", b"", frames.BODY_IS_JSON, 1.0)
        host.active[1] = call
        host.run(call, b'{"key": ["value", 1, 2.5, null, true]}')
    finally:
        output.find_call, output.active = find_call, active
        sys.path[:] = path
        sys.path_importer_cache.pop(CODE, None)
        sys.modules.pop("function", None)
        for name in _VARIABLES:
            del os.environ[name]
