#!/usr/bin/env bash
# Installs socat, which lets a shell script serve TCP.
set -euo pipefail

command -v socat >/dev/null && exit
if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "install.sh: install socat, or run this as root on Debian." >&2
    exit 1
fi
apt-get update --quiet
DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends socat
