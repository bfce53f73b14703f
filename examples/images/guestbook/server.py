# SPDX-License-Identifier: Apache-2.0
"""A function that is a web site: it has its own paths, and callers use them as they like.

GET / shows the book, POST /entries adds what a form sends, GET /entries is JSON. The entries live as
long as the instance does.
"""

import html
import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

ENTRIES = []

PAGE = """<!doctype html><title>Guests</title><h1>Guests</h1><ul>%s</ul>
<form method="post" action="%s/entries"><input name="name" required><button>Sign</button></form>
"""


class Guestbook(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/":
            names = "".join("<li>%s" % html.escape(name) for name in ENTRIES)
            # Where callers see this site, for links.
            prefix = self.headers.get("X-Forwarded-Prefix", "")
            self.answer(200, "text/html; charset=utf-8", PAGE % (names, html.escape(prefix)))
        elif self.path == "/entries":
            self.answer(200, "application/json", json.dumps(ENTRIES))
        else:
            self.answer(404, "text/plain", "there is no %s here\n" % self.path)

    def do_POST(self):
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
        if self.path != "/entries" or not form.get("name"):
            self.answer(400, "text/plain", "POST name=... to /entries\n")
            return
        ENTRIES.append(form["name"][0][:100])
        print("signed by", ENTRIES[-1], flush=True)
        self.answer(201, "application/json", json.dumps(ENTRIES))

    def answer(self, status, kind, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """The platform logs requests."""


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer(("127.0.0.1", 8000), Guestbook).serve_forever()
