def handler(event, context):
    name = event.get("name", "world")
    context.getLogger().info("greeting %s", name)
    return {"greeting": "Hello, %s!" % name}
