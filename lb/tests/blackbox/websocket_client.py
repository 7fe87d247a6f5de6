"""Talks to an echo server: each kind of message, then waits for a line to be told to go on."""
import asyncio
import os
import sys
import websockets


async def main(uri):
    async with websockets.connect(uri, max_size=None, subprotocols=["chat"]) as socket:
        assert socket.subprotocol == "chat"
        for message in ["", "text", "\u00e9" * 1000, b"", b"\0\xff", os.urandom(3_000_000)]:
            await socket.send(message)
            assert await socket.recv() == message, "another message came back"
        await socket.send(["in ", "several ", "frames"])
        assert await socket.recv() == "in several frames"
        await asyncio.wait_for(await socket.ping(), 10)
        await asyncio.gather(*(socket.send(str(i)) for i in range(1000)))
        assert {await socket.recv() for _ in range(1000)} == {str(i) for i in range(1000)}
        print("talked", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        await socket.send("still there")
        assert await socket.recv() == "still there"
    assert socket.close_code == 1000, socket.close_code
    print("closed", flush=True)


asyncio.run(main(sys.argv[1]))
