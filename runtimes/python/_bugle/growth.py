# SPDX-License-Identifier: Apache-2.0
"""Imports packages of the operator into a parent, for all instances that are forked from it.

A fork takes over memory and nothing else: a package that starts a thread or a process, or keeps a
file or a socket open, would be broken in it. Such packages are refused, and functions import them
for themselves.
"""

import gc
import json
import os
import signal
import sys

# The platform takes no more.
_MAX_NAMES = 128 * 1024


class Refused(Exception):
    """A module cannot be imported ahead."""


class Growth(object):
    """What importing has left behind that an instance has to know."""

    def __init__(self, hooks):
        self._hooks = hooks
        self._generators = []
        self._seeds = []

    def run(self, wanted):
        """Imports the modules and returns, as JSON, everything that they have imported.

        Raises `Refused` with a line for the operator.
        """
        import random

        known = set(sys.modules)
        before = _descriptors()
        handlers = _signal_handlers()
        seed = random.Random.seed
        random.Random.seed = self._watch_seed(seed)
        self._hooks.grow()
        try:
            for name in wanted:
                _import(name)
                _look_around(name, before)
        finally:
            random.Random.seed = seed
        for number, handler in handlers:
            # An instance begins with the handlers that it would have had.
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        os.chdir("/")
        gc.collect()
        return names(set(sys.modules) - known)

    def separate(self):
        """Gives a fork random numbers of its own."""
        for seed in self._seeds:
            seed()

    def prepare(self):
        """Looks for all generators: that of a fork would continue that of its parent."""
        self._seeds = [generator.seed for generator in self._generators]
        random = sys.modules.get("random")
        if random is not None:
            self._seeds.append(random.seed)
        numpy = sys.modules.get("numpy")
        if numpy is not None and "numpy.random" in sys.modules:
            self._seeds.append(numpy.random.seed)

    def _watch_seed(self, seed):
        def watched(generator, a=None, *more, **named):
            # One that was given a seed is meant to be the same everywhere.
            if a is None:
                self._generators.append(generator)
            return seed(generator, a, *more, **named)

        return watched


def _import(name):
    try:
        __import__(name)
    except BaseException as error:
        # Also what a module raises to end the process, which is not its own here.
        raise Refused("cannot import %s: %s: %s" % (name, type(error).__name__, error))


def _look_around(name, before):
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise Refused("importing %s starts a thread" % name)
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        pass
    else:
        raise Refused("importing %s starts a process" % name)
    gc.collect()
    kept = sorted(_descriptors() - before)
    if kept:
        raise Refused("importing %s keeps open %s" % (name, ", ".join(what for _fd, what in kept)))


def _descriptors():
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add((fd, os.readlink("/proc/self/fd/" + fd)))
        except OSError:
            # The descriptor of the listing itself.
            pass
    return found


def _signal_handlers():
    found = []
    for number in range(1, signal.NSIG):
        try:
            handler = signal.getsignal(number)
        except ValueError:
            continue
        if handler is not None:
            found.append((number, handler))
    return found


def names(loaded):
    """The names as JSON, which the platform reads."""
    text = json.dumps(sorted(loaded)).encode("ascii")
    if len(text) > _MAX_NAMES:
        text = json.dumps(sorted({name.split(".")[0] for name in loaded})).encode("ascii")
    return text
