# SPDX-License-Identifier: Apache-2.0
"""The frames between an instance and the platform, and the socket that carries them.

A frame is a fixed header, a meta part and a body; `docs/runtime-protocol.md` has the table. A
channel is read by one thread at a time, which the caller sees to; any thread may send.
"""

import select
import socket
import struct
import threading

# meta length, body length, kind, flags, status, call id, value
HEADER = struct.Struct("<IIBBHIQ")

# To the instance.
START = 1
CALL = 2
STOP = 3
ACK = 4

# From the instance.
READY = 16
START_FAILED = 17
RESULT = 18
FAILURE = 19
STREAM = 20
LOG = 21
MEMORY = 22

# Flags of CALL.
BODY_IS_JSON = 1
STREAM_WANTED = 2

# Flags of LOG.
STDERR = 1

_DESCRIPTOR = struct.Struct("i")
_CONTROL_SPACE = socket.CMSG_SPACE(_DESCRIPTOR.size)
_CONTROL_FLAGS = int(socket.MSG_CMSG_CLOEXEC)

_BUFFER = 16 * 1024
# Up to this size one joined buffer is cheaper than a list of them.
_JOIN = 64 * 1024


class Closed(Exception):
    """The platform closed the connection."""


def frame(kind, ident=0, value=0, meta=b"", body=b"", flags=0, status=0):
    """Returns the frame as one bytes object."""
    header = HEADER.pack(len(meta), len(body), kind, flags, status, ident, value)
    return header + meta + body if meta else header + body


class Channel(object):
    """The instance's end of its socket, blocking."""

    def __init__(self, fd):
        self.fd = fd
        # The parent has a socket of that number too: a fork takes over the object.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
        self._send_lock = threading.Lock()
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        # Python refuses a poll object to two threads at once; the second is for who only looks.
        self._poll = select.poll()
        self._glance = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._glance.register(fd, select.POLLIN)

    def receive(self):
        """Waits for the next frame: kind, flags, status, id, value, meta, body."""
        while True:
            found = self.next_frame()
            if found is not None:
                return found
            self.fill()

    def receive_start(self):
        """Waits for the first frame; returns it and the descriptor beside it, or None for that."""
        found = self.next_frame()
        descriptor = None
        while found is None:
            if self._end == len(self._buffer):
                self._compact(self._buffer)
            count, control, _flags, _address = self._socket.recvmsg_into(
                [self._view[self._end :]], _CONTROL_SPACE, _CONTROL_FLAGS
            )
            if not count:
                raise Closed()
            if control:
                (descriptor,) = _DESCRIPTOR.unpack(control[0][2])
            self._end += count
            found = self.next_frame()
        return found, descriptor

    def next_frame(self):
        """Returns the next frame if it is complete in the buffer, else None."""
        start = self._start
        body_at = start + 24
        if self._end < body_at:
            return None
        meta_size, body_size, kind, flags, status, ident, value = HEADER.unpack_from(
            self._buffer, start
        )
        meta_at = body_at
        body_at += meta_size
        end = body_at + body_size
        if end > self._end:
            if end - start > len(self._buffer):
                self._grow(end - start)
            return None
        view = self._view
        self._start = end
        meta = bytes(view[meta_at:body_at]) if meta_size else b""
        return kind, flags, status, ident, value, meta, bytes(view[body_at:end])

    def fill(self):
        """Reads once from the socket into the buffer."""
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._buffer) > _BUFFER:
                self._grow(0)
        elif self._end == len(self._buffer):
            self._compact(self._buffer)
        self._poll.poll()
        count = self._socket.recv_into(self._view[self._end :])
        if not count:
            raise Closed()
        self._end += count

    def waiting(self):
        """Whether something is there to be read; for one thread beside the one that reads."""
        return self._end > self._start or bool(self._glance.poll(0))

    def send(self, data):
        """Sends whole frames; blocks while the platform does not read."""
        with self._send_lock:
            sent = self._socket.send(data)
            if sent < len(data):
                self._socket.sendall(memoryview(data)[sent:])

    def send_body(self, head, body):
        """Sends frames whose last one has a body that is not worth copying."""
        if len(body) <= _JOIN:
            self.send(head + body)
            return
        with self._send_lock:
            self._socket.sendall(head)
            self._socket.sendall(body)

    def use_loop(self):
        """Stops blocking; returns the socket, whose new owner sends by itself."""
        self._socket.setblocking(False)
        return self._socket

    def leave_loop(self):
        """Blocks again and sends by itself again."""
        self._socket.setblocking(True)
        del self.send, self.send_body

    def close(self):
        """Closes the socket without telling the other side."""
        self._socket.close()

    def _grow(self, size):
        self._compact(bytearray(max(size, _BUFFER)))

    def _compact(self, buffer):
        """Moves the unread bytes to the beginning of `buffer`, which may be the present one."""
        count = self._end - self._start
        buffer[:count] = bytes(self._view[self._start : self._end])
        if buffer is not self._buffer:
            self._buffer = buffer
            self._view = memoryview(buffer)
        self._start = 0
        self._end = count
