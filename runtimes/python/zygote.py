# SPDX-License-Identifier: Apache-2.0
"""Starts the warm parent of one interpreter's instances.

The platform runs this file as `python -I -S -B zygote.py [module ...]` with the control socket as
standard input. The arguments are further modules to import before the first fork. All the rest is
in the package beside it; its name begins with an underscore so that it is in nobody's way.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from _bugle import zygote

    zygote.main(sys.argv[1:])
