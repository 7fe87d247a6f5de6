"""Echoes every WebSocket message; prints its port first."""
import asyncio
import websockets


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    server = await websockets.serve(echo, "127.0.0.1", 0, max_size=None, subprotocols=["chat"])
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Future()


asyncio.run(main())
