#!/usr/bin/env python3
"""A web server on bare sockets, so that tests see exactly what arrives and decide what is sent."""
import asyncio
import base64
import hashlib
import json
import os
import urllib.parse

SEEN = {"connections": 0, "gone": 0, "open": 0}


async def head(reader):
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text[:-4].split("\r\n")
    method, target, _ = first.split(" ")
    headers = [tuple(line.split(": ", 1)) for line in lines]
    return method, target, headers


async def pieces(reader, headers):
    """The body, as it comes."""
    named = {name.lower(): value for name, value in headers}
    if named.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            yield await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return
    left = int(named.get("content-length", 0))
    while left:
        piece = await reader.read(min(left, 65536))
        if not piece:
            raise ConnectionError("the body ended early")
        left -= len(piece)
        yield piece


def answer(writer, status, headers, body=b"", length=None):
    lines = [f"HTTP/1.1 {status} Said"]
    if length != "chunked":
        headers = [*headers, ("Content-Length", str(len(body) if length is None else length))]
    lines += [f"{name}: {value}" for name, value in headers]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def chunk(writer, data):
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


async def show(request, reader, writer):
    body = b"".join([piece async for piece in pieces(reader, request["headers"])])
    request["body"] = base64.b64encode(body).decode()
    request.update(SEEN, instance=os.environ["INSTANCE_ID"])
    text = json.dumps(request).encode()
    # A HEAD request learns the length of what GET would give it.
    is_head = request["method"] == "HEAD"
    kind = [("Content-Type", "application/json"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"),
            ("Connection", "keep-alive, X-Hop"), ("X-Hop", "1"), ("X-Inner-Code", "77"),
            ("Server", "bare")]
    answer(writer, int(request["query"].get("status", 200)), kind, b"" if is_head else text,
           len(text))


async def digest(request, reader, writer):
    sha, size = hashlib.sha256(), 0
    async for piece in pieces(reader, request["headers"]):
        sha.update(piece)
        size += len(piece)
    answer(writer, 200, [], json.dumps({"sha": sha.hexdigest(), "size": size}).encode())


async def echo_pieces(request, reader, writer):
    """Answers each piece as soon as it is there, while the next one is on its way."""
    answer(writer, 200, [("Transfer-Encoding", "chunked")], length="chunked")
    async for piece in pieces(reader, request["headers"]):
        chunk(writer, b"got " + piece)
        await writer.drain()
    writer.write(b"0\r\n\r\n")


async def events(request, reader, writer):
    answer(writer, 200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")],
           length="chunked")
    chunk(writer, b"data: first\n\n")
    await writer.drain()
    SEEN["open"] += 1
    try:
        while not os.path.exists(request["query"]["until"]):
            if reader.at_eof():
                SEEN["gone"] += 1
                raise ConnectionError("nobody listens")
            await asyncio.sleep(0.01)
    finally:
        SEEN["open"] -= 1
    chunk(writer, b"data: last\n\n")
    writer.write(b"0\r\n\r\n")


async def size(request, reader, writer):
    left = int(request["query"]["bytes"])
    if "chunked" in request["query"]:
        answer(writer, 200, [("Transfer-Encoding", "chunked")], length="chunked")
        send, last = lambda data: chunk(writer, data), b"0\r\n\r\n"
    else:
        answer(writer, 200, [], length=left)
        send, last = writer.write, b""
    while left:
        data = bytes(min(left, 65536))
        send(data)
        left -= len(data)
        await writer.drain()
    writer.write(last)


async def sleep(request, reader, writer):
    if "head" in request["query"]:
        answer(writer, 200, [], b"a", length=2)
        await writer.drain()
    await asyncio.sleep(float(request["query"]["seconds"]))
    answer(writer, 200, [], b"slept")


async def stop_short(request, reader, writer):
    answer(writer, 200, [], b"half", length=100)
    raise ConnectionError("meant")


async def early(request, reader, writer):
    """Answers without reading what is sent."""
    answer(writer, 403, [("Connection", "close")], b"no thanks")
    raise ConnectionError("meant")


async def socket(request, reader, writer):
    """Not a real WebSocket: what matters here are bytes."""
    answer(writer, 101, [("Upgrade", "websocket"), ("Connection", "Upgrade")], b"hello ", 0)
    SEEN["open"] += 1
    try:
        while data := await reader.read(65536):
            writer.write(data.upper())
            await writer.drain()
    finally:
        SEEN["open"] -= 1
    raise ConnectionError("closed")


async def nonsense(request, reader, writer):
    writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
    raise ConnectionError("meant")


ROUTES = {"/digest": digest, "/pieces": echo_pieces, "/events": events, "/size": size,
          "/sleep": sleep, "/short": stop_short, "/early": early, "/socket": socket,
          "/nonsense": nonsense}


async def serve(reader, writer):
    SEEN["connections"] += 1
    try:
        while True:
            method, target, headers = await head(reader)
            url = urllib.parse.urlsplit(target)
            request = {"method": method, "target": target, "headers": headers,
                       "query": dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))}
            print("serving", url.path, flush=True)
            await ROUTES.get(url.path, show)(request, reader, writer)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(os.environ["PORT"]), limit=1 << 20)
    async with server:
        await server.serve_forever()


asyncio.run(main())
