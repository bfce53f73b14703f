# SPDX-License-Identifier: Apache-2.0
"""The body of a call as the handler's event, and its result or exception as frames."""

import base64
import binascii
import json
import os
import traceback
from json import encoder as _encoder
from json import scanner as _scanner

from _bugle import frames

_OWN_FILES = os.path.dirname(os.path.abspath(__file__)) + os.sep

RESULT_LIMIT = 6291456
_TRACE_LIMIT = 64 * 1024
_TEXT_LIMIT = 16 * 1024

HANDLER_FAILED = 4002
TOO_LARGE = 4004
NOT_JSON = 4007
OVERDUE = 4010

_SHAPE = frozenset(("statusCode", "headers", "body", "isBase64Encoded", "multiValueHeaders"))


class Overdue(BaseException):
    """Raised inside a handler whose call has passed its time limit."""


class BadResult(Exception):
    """The handler's result is none that can be sent."""

    def __init__(self, code, message):
        Exception.__init__(self, message)
        self.code = code


def _reject(value):
    raise TypeError("Object of type %s is not JSON serializable" % type(value).__name__)


def _make_encoder():
    """Returns a function from a value to the pieces of its JSON text.

    The C encoder is kept instead of being made for every result, as `json.dumps` does. Without
    the table of containers that are under way, a circular value ends in a RecursionError.
    """
    make = _encoder.c_make_encoder
    if make is None:
        return json.JSONEncoder(allow_nan=False).iterencode
    escape = _encoder.encode_basestring_ascii
    encode = make(None, _reject, escape, None, ": ", ", ", False, False, False)
    return lambda value: encode(value, 0)


_encode = _make_encoder()
_scan = _scanner.make_scanner(json.JSONDecoder())


def parse_event(body, flags):
    """The event of a call: the value of a JSON body, or the bytes of any other body.

    The flag says that the body may be JSON. Clients announce JSON under all kinds of content types,
    and other bytes as JSON, so only a look at the body tells.
    """
    if not flags & frames.BODY_IS_JSON:
        return body
    if not body:
        return {}
    try:
        text = body.decode("utf-8")
        event, end = _scan(text, 0)
        if end != len(text):
            event = json.loads(text)
    except StopIteration:
        # White space before the value, which the scanner leaves to its caller, or no value.
        event = _parse_slowly(text, body)
    except (ValueError, RecursionError):
        return body
    return {} if event is None else event


def _parse_slowly(text, body):
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return body


def result_frames(ident, result, elapsed):
    """The frames of a result; the last body may be split off to spare a copy."""
    if result is None:
        return frames.frame(frames.RESULT, ident, elapsed, body=b'""'), b""
    if isinstance(result, dict) and "statusCode" in result and _is_http(result):
        return _http_frames(ident, result, elapsed)
    try:
        body = "".join(_encode(result)).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise BadResult(
            NOT_JSON, "the result of the handler cannot be written as JSON: %s" % error
        )
    _check_size(body)
    head = frames.HEADER.pack(0, len(body), frames.RESULT, 0, 0, ident, elapsed)
    return head, body


def _is_http(result):
    status = result["statusCode"]
    return type(status) is int and 200 <= status <= 599 and _SHAPE.issuperset(result)


def _http_frames(ident, result, elapsed):
    body, content_type = _http_body(result)
    _check_size(body)
    headers = _http_headers(result)
    if content_type and not any(name.lower() == "content-type" for name, _value in headers):
        headers.append(["content-type", content_type])
    meta = json.dumps(headers).encode("ascii")
    head = frames.HEADER.pack(
        len(meta), len(body), frames.RESULT, 0, result["statusCode"], ident, elapsed
    )
    return head + meta, body


def _http_body(result):
    """Returns the bytes of the body and the content type they have unless the handler says."""
    body = result.get("body")
    if result.get("isBase64Encoded"):
        try:
            return base64.b64decode(body or "", validate=True), "application/octet-stream"
        except (TypeError, ValueError, binascii.Error) as error:
            raise BadResult(NOT_JSON, "the body of the result is not base64: %s" % error)
    if body is None:
        return b"", None
    if isinstance(body, str):
        return body.encode("utf-8", "replace"), "text/plain; charset=utf-8"
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body), "application/octet-stream"
    try:
        return "".join(_encode(body)).encode("ascii"), "application/json"
    except (TypeError, ValueError, RecursionError) as error:
        raise BadResult(NOT_JSON, "the body of the result cannot be written as JSON: %s" % error)


def _http_headers(result):
    headers = []
    for field in ("headers", "multiValueHeaders"):
        given = result.get(field) or {}
        if not isinstance(given, dict):
            raise BadResult(NOT_JSON, "the field %s of the result is not a dict" % field)
        for name, value in given.items():
            for one in value if isinstance(value, (list, tuple)) else (value,):
                headers.append([str(name), _header_text(one)])
    return headers


def _header_text(value):
    if value is True or value is False:
        return "true" if value else "false"
    return str(value)


def _check_size(body):
    if len(body) > RESULT_LIMIT:
        raise BadResult(
            TOO_LARGE,
            "response body size %d exceeds the limit of %d" % (len(body), RESULT_LIMIT),
        )


def failure_frames(call, error, elapsed):
    """The frames of an exception that the handler raised, and the text for the log."""
    ident = call.ident
    trace = format_trace(error)
    if isinstance(error, BadResult):
        return _failure(ident, elapsed, error.code, str(error), None, None), str(error)
    if isinstance(error, Overdue):
        message = "call request timed out after %gs" % (call._deadline - call.started)
        return _failure(ident, elapsed, OVERDUE, message, None, trace), message
    if isinstance(error, SystemExit):
        text = "user code sys.exit()."
    else:
        text = _text_of(error) + "."
    message = "Fail to run user call handler. err: " + text
    kind = name_of(error)
    return _failure(ident, elapsed, HANDLER_FAILED, message, kind, trace), trace


def _failure(ident, elapsed, code, message, kind, trace):
    meta = {"code": code, "message": message, "kind": kind, "trace": trace}
    return frames.frame(
        frames.FAILURE, ident, elapsed, meta=json.dumps(meta).encode("ascii")
    )


def _text_of(error):
    try:
        return str(error)[:_TEXT_LIMIT]
    except Exception:
        return "<the exception has no text>"


def name_of(error):
    """The exception's type as a traceback shows it."""
    kind = type(error)
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__name__
    return "%s.%s" % (kind.__module__, kind.__qualname__)


def format_trace(error):
    """The stack trace with the user's frames only."""
    step = error.__traceback__
    while step is not None and _is_own(step.tb_frame.f_code.co_filename):
        step = step.tb_next
    try:
        lines = traceback.format_exception(type(error), error, step)
    except Exception:
        lines = [name_of(error)]
    text = "".join(lines)
    if len(text) > _TRACE_LIMIT:
        text = text[: _TRACE_LIMIT // 2] + "\n...\n" + text[-_TRACE_LIMIT // 2 :]
    return text


def _is_own(file):
    # The import system's frames stand between ours and those of the user's module.
    return file.startswith(_OWN_FILES) or file.startswith("<frozen importlib")
