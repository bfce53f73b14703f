def handler(event, context):
    """Chooses status, headers and body of its answer itself."""
    name = event.get("name", "world") if isinstance(event, dict) else "world"
    return {
        "statusCode": 200,
        "headers": {"content-type": "text/html; charset=utf-8"},
        "body": "<h1>Hello, %s!</h1>" % name,
    }
