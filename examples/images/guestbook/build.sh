#!/usr/bin/env bash
# Writes guestbook.tar: the machine's Python with its standard library, and the server.
set -euo pipefail
cd "$(dirname "$0")"

python=$(python3 -c 'import os, sys; print(os.path.realpath(sys.executable))')
library=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
python3 ../pack.py --name demo/guestbook:1 --out "${1:-guestbook.tar}" \
    --layer --program "$python" --copy "$library" "$library" \
    --layer --copy server.py /srv/server.py \
    --workdir /srv --cmd "$python" -I server.py
