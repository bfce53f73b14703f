# SPDX-License-Identifier: Apache-2.0
"""The function that a parked process loads and calls once, to have done it before."""


def handler(event, context):
    return {"request": context.getRequestID(), "event": event}
