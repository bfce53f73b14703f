#!/usr/bin/env bash
# Installs what requirements.txt names beside the handler, where the function finds it.
# The interpreter is the one of function.toml; PYTHON=/path/to/python chooses another.
set -euo pipefail
cd "$(dirname "$0")"

python=${PYTHON:-$(sed -n 's/^runtime *= *"\(.*\)"/\1/p' function.toml)}
if ! "$python" -m pip --version >/dev/null 2>&1; then
    echo "install.sh: '$python -m pip' does not work." >&2
    echo "Install this Python with pip (Debian: apt-get install python3-pip), or set PYTHON." >&2
    exit 1
fi
PIP_ROOT_USER_ACTION=ignore "$python" -m pip install --quiet --disable-pip-version-check \
    --upgrade --target . --requirement requirements.txt
