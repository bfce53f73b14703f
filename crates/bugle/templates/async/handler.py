import asyncio


async def work(number):
    await asyncio.sleep(0.01)
    return number * number


async def handler(event, context):
    """A coroutine: one instance runs many of these calls at once."""
    numbers = event.get("numbers", [1, 2, 3])
    return {"squares": await asyncio.gather(*(work(number) for number in numbers))}
