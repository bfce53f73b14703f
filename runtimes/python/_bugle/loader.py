# SPDX-License-Identifier: Apache-2.0
"""Gives a process its variables, and finds and imports the user's code."""

import _imp
import functools
import io
import marshal
import os
import sys
import types

# The import system itself: the modules that show it to everybody would be one more thing to fork.
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader

# The flag of code that an `async def` makes, which is the same in every version.
_CO_COROUTINE = 0x80

# Who is asked for a module, as long as nobody has added to them.
_FINDERS = list(sys.meta_path)

# How a compiled file says that its source does not change any more.
_PYC_UNCHECKED = 1
_PYC_HEADER = 16


# What a file that is no source, but a module of its name all the same, may end with.
_EXTENSIONS = _imp.extension_suffixes()

# Compiled files that are not on the disk, by the path of their source.
prepared = {}


class LoadError(Exception):
    """The handler's text names nothing that can be called."""


def clear_environment():
    """Takes all variables away."""
    for name in list(os.environ):
        del os.environ[name]


def set_environment(variables):
    """Gives a process that has no variables these.

    One by one: what a mapping does for all at once is code that nothing else here touches.
    """
    environ = os.environ
    for name, value in variables.items():
        environ[name] = value


def prepare_path(code):
    """Makes the modules of the code directory importable, before those of the interpreter.

    Dependencies live beside the handler file or in `lib`. Site packages of the interpreter are
    out of reach on purpose: a function must not depend on what a machine happens to have.
    """
    sys.path.insert(0, code)
    names = os.listdir(code)
    if "lib" in names:
        lib = os.path.join(code, "lib")
        if os.path.isdir(lib):
            sys.path.insert(1, lib)
    _forget_shadowed(code, names)


def _forget_shadowed(code, names):
    """Lets the user's modules win over modules of the same name that are loaded already.

    In an ordinary program the script's directory comes first. Here the standard library was
    imported before the directory was known.
    """
    modules = sys.modules
    for name in names:
        if name[-3:] == ".py":
            name = name[:-3]
            if name not in modules:
                continue
        elif name not in modules or not os.path.isfile(os.path.join(code, name, "__init__.py")):
            continue
        if name not in sys.builtin_module_names:
            for loaded in [m for m in modules if m == name or m.startswith(name + ".")]:
                del modules[loaded]


def prepare(code, handler, data):
    """Keeps the compiled form of the handler's file, for whoever imports that first."""
    prepared[code + "/" + handler.rpartition(".")[0] + ".py"] = data


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
    module = _import_file(code, name)
    if module is not None:
        return module
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


def _import_file(code, name):
    """Imports a module that is one source file, and nothing else of its name; or returns None.

    It does what `import` would, without the import system: that is as much code as all else that a
    small function touches at its start, and in a fork what is touched is copied first.
    """
    base = code + "/" + name
    path = base + ".py"
    if (
        "." in name
        or name in sys.modules
        or name in sys.builtin_module_names
        or _imp.is_frozen(name)
        or sys.meta_path != _FINDERS
        or not os.path.isfile(path)
        or _exists(base)
    ):
        return None
    for suffix in _EXTENSIONS:
        if _exists(base + suffix):
            return None
    cached = "%s/__pycache__/%s.%s.pyc" % (code, name, sys.implementation.cache_tag)
    program = _compiled(path, prepared.get(path) or _read_cached(cached))
    if program is None:
        program = compile(_read(path), path, "exec", 0, True)
    spec = ModuleSpec(name, SourceFileLoader(name, path), origin=path)
    spec.has_location = True
    spec.cached = cached
    module = types.ModuleType(name)
    module.__file__ = path
    module.__cached__ = cached
    module.__loader__ = spec.loader
    module.__package__ = ""
    module.__spec__ = spec
    sys.modules[name] = module
    # An import of this module while it runs finds it, and says what is wrong if that fails.
    spec._initializing = True
    try:
        exec(program, module.__dict__)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    finally:
        spec._initializing = False
    # A module may put something else in its place.
    return sys.modules[name]


def _exists(path):
    # Unlike those of `os.path` this makes no exception, with a text, of a file that is not there.
    return os.access(path, os.F_OK)


def _read_cached(path):
    try:
        return _read(path) if _exists(path) else b""
    except OSError:
        return b""


def _compiled(path, data):
    """The code in a compiled file's `data`, if it is of the source as it is."""
    # Before 3.7 the header was another one.
    if data[:4] != MAGIC_NUMBER or len(data) < _PYC_HEADER or sys.version_info < (3, 7):
        return None
    flags = int.from_bytes(data[4:8], "little")
    if flags == 0:
        source = os.stat(path)
        stamp = (int(source.st_mtime) & 0xFFFFFFFF, source.st_size & 0xFFFFFFFF)
        if stamp != (int.from_bytes(data[8:12], "little"), int.from_bytes(data[12:16], "little")):
            return None
    elif flags != _PYC_UNCHECKED:
        return None
    program = marshal.loads(memoryview(data)[_PYC_HEADER:])
    _imp._fix_co_filename(program, path)
    return program


def _read(path):
    with io.FileIO(path) as file:
        return file.readall()


def is_coroutine_function(function):
    """Whether calling it makes a coroutine."""
    if _makes_coroutine(function):
        return True
    # That of a plain function is the interpreter's.
    return type(function) is not types.FunctionType and _makes_coroutine(
        getattr(type(function), "__call__", None)
    )


def _makes_coroutine(function):
    """What `inspect` would say. That module is as large as the rest; it is used if it is there."""
    if type(function) is types.FunctionType and "inspect" not in sys.modules:
        return bool(function.__code__.co_flags & _CO_COROUTINE)
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
