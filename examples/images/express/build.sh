#!/usr/bin/env bash
# Writes express.tar: the machine's Node.js, the packages of package.json, and the server.
set -euo pipefail
cd "$(dirname "$0")"

node=$(realpath "$(command -v node)")
npm install --silent --no-audit --no-fund --no-package-lock
python3 ../pack.py --name demo/express:1 --out "${1:-express.tar}" \
    --layer --program "$node" \
    --layer --copy node_modules /srv/node_modules \
    --layer --copy server.js /srv/server.js \
    --workdir /srv --env NODE_ENV=production --cmd "$node" server.js
