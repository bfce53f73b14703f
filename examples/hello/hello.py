"""The smallest function: one JSON object in, one JSON object out."""


def handler(event, context):
    name = event.get("name", "world")
    context.getLogger().info("greeting %s", name)
    return {"greeting": "Hello, {}!".format(name), "version": context.getVersion()}
