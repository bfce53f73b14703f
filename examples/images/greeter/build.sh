#!/usr/bin/env bash
# Writes greeter.tar: a binary that needs nothing else.
set -euo pipefail
cd "$(dirname "$0")"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
rustc --edition 2024 -O -C target-feature=+crt-static -o "$folder/greeter" main.rs
python3 ../pack.py --name demo/greeter:1 --out "${1:-greeter.tar}" \
    --layer --copy "$folder/greeter" /greeter --cmd /greeter
