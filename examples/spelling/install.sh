#!/usr/bin/env bash
# Compiles spelling.cpp to the program that function.toml names. CXX chooses another compiler.
set -euo pipefail
cd "$(dirname "$0")"

compiler=${CXX:-g++}
if ! command -v "$compiler" >/dev/null; then
    echo "install.sh: there is no $compiler (Debian: apt-get install g++), or set CXX." >&2
    exit 1
fi
"$compiler" -std=c++17 -O2 -Wall -Wextra -pthread -o spelling spelling.cpp
