"""The handler in FastAPI, as its introduction would write it."""

from fastapi import FastAPI

app = FastAPI()


@app.post("/")
async def handler(event: dict):
    return {"ok": True}
