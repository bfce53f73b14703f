# SPDX-License-Identifier: Apache-2.0
"""Finds and imports the user's code."""

import functools
import os
import sys
import types

# The flag of code that an `async def` makes, which is the same in every version.
_CO_COROUTINE = 0x80


class LoadError(Exception):
    """The handler's text names nothing that can be called."""


def prepare_path(code):
    """Makes the modules of the code directory importable, before those of the interpreter.

    Dependencies live beside the handler file or in `lib`. Site packages of the interpreter are
    out of reach on purpose: a function must not depend on what a machine happens to have.
    """
    sys.path.insert(0, code)
    lib = os.path.join(code, "lib")
    if os.path.isdir(lib):
        sys.path.insert(1, lib)
    _forget_shadowed(code)


def _forget_shadowed(code):
    """Lets the user's modules win over modules of the same name that are loaded already.

    In an ordinary program the script's directory comes first. Here the standard library was
    imported before the directory was known.
    """
    for entry in os.scandir(code):
        name = entry.name
        if name.endswith(".py"):
            name = name[:-3]
        elif not os.path.isfile(os.path.join(entry.path, "__init__.py")):
            continue
        if name in sys.modules and name not in sys.builtin_module_names:
            for loaded in [m for m in sys.modules if m == name or m.startswith(name + ".")]:
                del sys.modules[loaded]


def find(code, handler):
    """Imports `directory.module.function` and returns the function."""
    module_name, dot, name = handler.rpartition(".")
    if not dot or not module_name or not name:
        raise LoadError("the handler %r is not of the form module.function" % handler)
    module = _import(code, module_name)
    function = getattr(module, name, None)
    if function is None:
        raise LoadError("module %r has no attribute %r" % (module_name, name))
    if not callable(function):
        raise LoadError("%r of module %r cannot be called" % (name, module_name))
    return function


def _import(code, name):
    try:
        # Unlike `importlib.import_module` this leaves no frame of the library in a stack trace.
        __import__(name)
        return sys.modules[name]
    except ImportError as error:
        # Told apart from an import inside the user's module that fails.
        path = os.path.join(code, *name.split("."))
        if os.path.isfile(path + ".py") or os.path.isdir(path):
            raise
        raise LoadError(
            "the module %r of the handler was not found: there is no %s.py in %s (%s)"
            % (name, name.replace(".", "/"), code, error)
        )


def is_coroutine_function(function):
    """Whether calling it makes a coroutine."""
    return _makes_coroutine(function) or _makes_coroutine(
        getattr(type(function), "__call__", None)
    )


def _makes_coroutine(function):
    """What `inspect` would say. That module is as large as the rest; it is used if it is there."""
    while isinstance(function, (functools.partial, types.MethodType)):
        if isinstance(function, functools.partial):
            function = function.func
        else:
            function = function.__func__
    inspect = sys.modules.get("inspect")
    if inspect is not None:
        # It knows of marks that only it can make.
        return inspect.iscoroutinefunction(function)
    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & _CO_COROUTINE)
