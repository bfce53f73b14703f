# SPDX-License-Identifier: Apache-2.0
"""Compiles the sources of a package, which somebody else wrote.

To compile runs nothing of a source, but the compiler itself has been brought down by sources that
were made for it. So this process takes sources from its standard input, gives what they became to
its standard output, and has given up everything else before it reads the first one. It yields to
whatever else wants the processor.

A frame is two numbers of four bytes, the lengths of a name and of what belongs to it, and then the
two. The first frame out has the interpreter's tag as its name.
"""

import importlib._bootstrap_external as external
import importlib.util
import os
import resource
import struct
import sys

_LENGTHS = struct.Struct(">II")

# What one process may use: seconds of the processor, and bytes of memory.
_SECONDS = 120
_MEMORY = 1 << 30

# The user and group that own nothing.
_NOBODY = 65534


def give_up():
    """Gives up rights, memory, files, and the claim to be served soon."""
    os.nice(19)
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        # It is nice enough.
        pass
    for limit, value in (
        (resource.RLIMIT_CPU, _SECONDS),
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 3),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def compile_source(name, source):
    """What an interpreter would make of the source; nothing where it is not Python."""
    try:
        code = compile(source, name, "exec", dont_inherit=True)
        # The source does not change any more, so nobody has to look whether it did.
        return external._code_to_hash_pyc(code, importlib.util.source_hash(source), False)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        # The function finds out, if it ever imports it.
        return b""


def read(count):
    """So many bytes, or none at the end."""
    data = sys.stdin.buffer.read(count)
    return data if len(data) == count else b""


def write(name, data):
    """Sends a frame."""
    sys.stdout.buffer.write(_LENGTHS.pack(len(name), len(data)) + name + data)


def main():
    """Compiles until there is no more."""
    # What the first compilation would look for when nothing can be opened any more.
    compile_source("first.py", b"pass")
    "".encode("utf-8").decode("latin-1")
    give_up()
    write(sys.implementation.cache_tag.encode("ascii"), b"")
    while True:
        lengths = read(_LENGTHS.size)
        if not lengths:
            break
        name_length, length = _LENGTHS.unpack(lengths)
        name = read(name_length)
        source = read(length)
        if len(source) != length:
            break
        compiled = compile_source(name.decode("utf-8", "replace"), source)
        if compiled:
            write(name, compiled)
    sys.stdout.buffer.flush()


main()
