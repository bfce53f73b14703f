"""Looks at many web addresses at the same time and reports which of them answer.

An `async def` handler runs as a coroutine: the requests below wait for the network together, so
fifty addresses take as long as the slowest one.
"""

import asyncio
import time

import httpx

AT_ONCE = 50


async def handler(event, context):
    urls = event["urls"]
    patience = float(event.get("timeout_seconds", 5))
    gate = asyncio.Semaphore(AT_ONCE)
    started = time.perf_counter()
    # trust_env=False: a proxy of the machine's environment would answer for the site.
    async with httpx.AsyncClient(timeout=patience, trust_env=False) as client:
        reports = await asyncio.gather(*(look(client, gate, url) for url in urls))
    up = sum(report["up"] for report in reports)
    context.getLogger().info("%d of %d up", up, len(urls))
    return {
        "up": up,
        "down": len(urls) - up,
        "seconds": round(time.perf_counter() - started, 3),
        "sites": reports,
    }


async def look(client, gate, url):
    report = {"url": url, "up": False}
    async with gate:
        started = time.perf_counter()
        try:
            answer = await client.get(url)
            report["status"] = answer.status_code
            report["up"] = answer.status_code < 500
        except httpx.HTTPError as error:
            report["error"] = "{}: {}".format(type(error).__name__, error)
        except httpx.InvalidURL as error:
            report["error"] = "not an address: {}".format(error)
        report["millis"] = round((time.perf_counter() - started) * 1000, 1)
    return report
