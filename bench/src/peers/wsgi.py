"""The handler as a raw WSGI application."""

import json


def app(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    json.loads(body)
    answer = json.dumps({"ok": True}).encode()
    headers = [("content-type", "application/json"), ("content-length", str(len(answer)))]
    start_response("200 OK", headers)
    return [answer]
