# SPDX-License-Identifier: Apache-2.0
"""Starts the warm parent of one interpreter's instances.

The platform runs this file as `python -I -S -B zygote.py [module ...]` with the control socket as
standard input. The arguments are further modules to import before the first fork. All the rest is
in the package beside it; its name begins with an underscore so that it is in nobody's way.
"""

import os
import sys


def compile_package(folder):
    """Compiles the package's sources where that is not done, in a process of its own.

    What compiling leaves behind in memory, every instance would be forked with: a quarter of all
    that its parent has.
    """
    sources = [
        os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".py")
    ]
    stale = [source for source in sources if not _is_compiled(source)]
    if not stale:
        return
    pid = os.fork()
    if pid == 0:
        try:
            import py_compile

            for source in stale:
                py_compile.compile(source)
        except OSError:
            # This process may not write there. Then it is compiled at each start.
            pass
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def _is_compiled(source):
    folder, name = os.path.split(source)
    tag = sys.implementation.cache_tag
    compiled = os.path.join(folder, "__pycache__", "%s.%s.pyc" % (name[:-3], tag))
    try:
        return os.stat(compiled).st_mtime >= os.stat(source).st_mtime
    except OSError:
        return False


if __name__ == "__main__":
    root = os.path.dirname(os.path.abspath(__file__))
    compile_package(os.path.join(root, "_bugle"))
    sys.path.insert(0, root)
    from _bugle import zygote

    zygote.main(sys.argv[1:])
