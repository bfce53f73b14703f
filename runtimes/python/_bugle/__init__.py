# SPDX-License-Identifier: Apache-2.0
"""What runs inside a Python instance.

`zygote` is the warm parent that forks instances and never runs user code; `instance` is what a
fork does: it takes its START frame, loads the user's code and serves calls with `threads` (plain
functions) or `coroutines` (`async def`). The frames are described in `docs/runtime-protocol.md`.

Everything here runs on CPython 3.6 and newer with the standard library alone.
"""
