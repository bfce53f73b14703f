# SPDX-License-Identifier: Apache-2.0
"""The most memory that the process has used, told to the platform when it has grown."""

import resource

from _bugle import frames

# To ask the kernel costs a fifth of a short call; it is asked after so many of them.
_CALLS = 64
# It is asked after every call that took so many seconds.
_SECONDS = 0.01


class Memory(object):
    """What was told last."""

    def __init__(self):
        self._told = 0
        self._calls = 0

    def frame(self, elapsed):
        """The MEMORY frame to send after a call that took `elapsed` seconds, often nothing."""
        self._calls -= 1
        if self._calls >= 0 and elapsed < _SECONDS:
            return b""
        self._calls = _CALLS
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if used == self._told:
            return b""
        self._told = used
        return frames.frame(frames.MEMORY, value=used)
