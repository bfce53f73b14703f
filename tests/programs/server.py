#!/usr/bin/env python3
"""A program that does what the body of a call says: `{"do": "…", …}`."""
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONNECTIONS = set()


class Program(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def setup(self):
        super().setup()
        CONNECTIONS.add(self.client_address)

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/init":
            return self.initialize()
        if self.headers["Content-Type"] == "application/octet-stream":
            return self.answer(self.body, kind="application/octet-stream")
        self.call = json.loads(self.body or b"{}")
        getattr(self, "do_" + self.call.get("do", "show"))()

    def initialize(self):
        mode = os.environ.get("INIT", "")
        if mode == "hang":
            time.sleep(60)
        print("initializing", mode, flush=True)
        self.answer(b"the database is away", status=int(mode or 200))

    def answer(self, body, status=200, kind="application/json", headers=()):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def json(self, value):
        self.answer(json.dumps(value).encode())

    def do_show(self):
        self.json({
            "path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()},
            "body": self.body.decode(), "instance": os.environ["INSTANCE_ID"], "cwd": os.getcwd(),
            "environment": dict(os.environ), "connections": len(CONNECTIONS),
        })

    def do_answer(self):
        headers = [tuple(header) for header in self.call["headers"]]
        self.answer(b"teapot", self.call["status"], "text/plain", headers)

    def do_sleep(self):
        time.sleep(self.call["seconds"])
        self.json({"instance": os.environ["INSTANCE_ID"], "version": os.environ.get("VERSION")})

    def do_print(self):
        print("said on stdout", flush=True)
        print("said on stderr", file=sys.stderr, flush=True)
        self.json(None)

    def do_exit(self):
        print("last words", flush=True)
        os._exit(3)

    def do_large(self):
        self.answer(b"x" * self.call["size"])

    def do_child(self):
        self.json(subprocess.Popen(["sleep", "600"]).pid)

    def do_hang_up(self):
        self.close_connection = True

    def do_events(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("X-Model", "small")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in ("event: token\nid: 1\ndata: a\n\n", "data: b\n\n"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event.encode()))
            self.wfile.flush()
            while event.startswith("event") and not os.path.exists(self.call["until"]):
                time.sleep(0.005)
        self.wfile.write(b"0\r\n\r\n")


if os.environ.get("START") == "exit":
    print("no configuration", file=sys.stderr, flush=True)
    sys.exit(7)
if os.environ.get("START") == "deaf":
    time.sleep(60)
port = int(os.environ["PORT"])
ThreadingHTTPServer(("127.0.0.1", port), Program).serve_forever()
