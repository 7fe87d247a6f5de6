"""Echoes every WebSocket message, over HTTP/2 only, by hypercorn; prints its port first."""
import asyncio
import socket
from hypercorn.asyncio import serve
from hypercorn.config import Config


async def echo(scope, receive, send):
    if scope["type"] != "websocket" or scope["http_version"] != "2":
        raise RuntimeError(f"not a WebSocket over HTTP/2: {scope}")
    assert (await receive())["type"] == "websocket.connect"
    chosen = "chat" if "chat" in scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen})
    while (event := await receive())["type"] == "websocket.receive":
        message = {key: event.get(key) for key in ("bytes", "text")}
        await send({"type": "websocket.send", **message})


async def main():
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    config = Config()
    config.bind = [f"fd://{listening.fileno()}"]
    print(listening.getsockname()[1], flush=True)
    await serve(echo, config)


asyncio.run(main())
