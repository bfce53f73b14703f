#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a container image as a file, from what is on this machine, without a container engine.

    pack.py --name demo/app:1 --out app.tar --layer --program /usr/bin/node \\
            --layer --copy server.js /srv/server.js --cmd node /srv/server.js

`bugle run app.tar` runs it, `bugle image load app.tar` keeps it, `docker load` takes it as well.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
LEFT_OUT = {"__pycache__", "site-packages", "test", "tests", "idlelib", "tkinter", "ensurepip"}


class Layer:
    """Files on their way into one layer, by their path in the image."""

    def __init__(self):
        self.files = {}

    def copy(self, source, target):
        """A file, or a directory with what is in it."""
        if not os.path.isdir(source):
            self.files[target] = source
            return
        for folder, names, files in os.walk(source):
            names[:] = sorted(name for name in names if name not in LEFT_OUT)
            inside = os.path.relpath(folder, source)
            for name in files:
                path = os.path.normpath(os.path.join(target, inside, name))
                self.files[path] = os.path.join(folder, name)
                if name.endswith(".so"):
                    self.libraries(os.path.join(folder, name))

    def program(self, path):
        """A program where it is, and the libraries that it loads."""
        self.files[path] = os.path.realpath(path)
        self.libraries(path)

    def libraries(self, path):
        """What the loader looks for when it loads this file."""
        told = subprocess.run(["ldd", path], stdout=subprocess.PIPE, text=True, check=False)
        for library in re.findall(r"(/\S+) \(0x", told.stdout):
            self.files[library] = os.path.realpath(library)

    def tar(self):
        """The layer; the same bytes for the same files."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for target in sorted(self.files):
                with open(self.files[target], "rb") as file:
                    entry = tarfile.TarInfo(target.lstrip("/"))
                    stat = os.fstat(file.fileno())
                    entry.size = stat.st_size
                    entry.mode = 0o755 if stat.st_mode & 0o100 else 0o644
                    tar.addfile(entry, file)
        return packed.getvalue()


class Ordered(argparse.Action):
    """Adds to the layer that the last --layer began."""

    def __call__(self, parser, found, values, option=None):
        if option == "--layer":
            found.layers.append(Layer())
            return
        if not found.layers:
            parser.error("%s comes after --layer" % option)
        if option == "--copy":
            found.layers[-1].copy(*values)
        else:
            found.layers[-1].program(values)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.set_defaults(layers=[])
    parser.add_argument("--name", required=True, help="what the image is called: path:tag")
    parser.add_argument("--out", required=True, help="the file")
    parser.add_argument("--layer", nargs=0, action=Ordered, help="begins a layer")
    parser.add_argument("--copy", nargs=2, metavar=("FROM", "TO"), action=Ordered)
    parser.add_argument("--program", metavar="PATH", action=Ordered)
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--workdir", default="/")
    parser.add_argument("--cmd", nargs=argparse.REMAINDER, required=True, help="comes last")
    return parser.parse_args()


def add(tar, name, data):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def main():
    wanted = arguments()
    layers = [layer.tar() for layer in wanted.layers]
    ids = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    config = json.dumps(
        {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Cmd": wanted.cmd, "WorkingDir": wanted.workdir, "Env": wanted.env},
            "rootfs": {"type": "layers", "diff_ids": ids},
        }
    ).encode()
    paths = ["%s.tar.gz" % one.split(":")[1] for one in ids]
    manifest = [{"Config": "config.json", "RepoTags": [wanted.name], "Layers": paths}]
    with tarfile.open(wanted.out, "w") as tar:
        add(tar, "manifest.json", json.dumps(manifest).encode())
        add(tar, "config.json", config)
        for path, layer in zip(paths, layers):
            add(tar, path, gzip.compress(layer, 1, mtime=0))
    size = os.path.getsize(wanted.out) / 1e6
    sys.stderr.write("%s: %s, %.1f MB\n" % (wanted.out, wanted.name, size))


if __name__ == "__main__":
    main()
