import time


def handler(event, context):
    """Sends its words one by one to clients that accept text/event-stream."""
    words = event.get("text", "one two three").split()
    stream = context.get_stream()
    for word in words:
        stream.write(word)
        time.sleep(0.1)
    return {"words": len(words)}
