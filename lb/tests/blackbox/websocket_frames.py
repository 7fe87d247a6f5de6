"""Frames of every kind, to an echo server directly and through a proxy: what comes back is the same,
byte for byte. Arguments: address of the server, then of the proxy, in the clear and over TLS."""
import os
import socket
import ssl
import struct
import sys

DEADLINE = 30
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(opcode, payload=b"", fin=True, mask=b"\x11\x22\x33\x44", reserved=0):
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    bit = 0x80 if mask else 0
    if len(payload) < 126:
        head += bytes([bit | len(payload)])
    elif len(payload) < 1 << 16:
        head += bytes([bit | 126]) + struct.pack(">H", len(payload))
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", len(payload))
    if not mask:
        return head + payload
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
    return head + mask + masked.to_bytes(len(payload), "big")


def answer(opcode, payload=b""):
    return frame(opcode, payload, mask=None)


def close(code, reason=b""):
    return frame(CLOSE, struct.pack(">H", code) + reason)


def cases():
    """Name, what is sent, what has to come back before the client closes; None where the server is to
    end it, with whatever it says."""
    sizes = [0, 1, 125, 126, 127, 128, 65535, 65536, 65537, 200_000, 1 << 20]
    for size in sizes:
        text = (b"0123456789" * (size // 10 + 1))[:size]
        yield f"text of {size}", frame(TEXT, text), answer(TEXT, text)
        data = os.urandom(size)
        yield f"binary of {size}", frame(BINARY, data), answer(BINARY, data)
    text = "κόσμε 𝄞".encode()
    yield "utf-8", frame(TEXT, text), answer(TEXT, text)
    parts = [frame(TEXT, b"a", fin=False), frame(CONT, b"b" * 70000, fin=False), frame(CONT, b"c")]
    whole = answer(TEXT, b"a" + b"b" * 70000 + b"c")
    yield "fragments", b"".join(parts), whole
    ping = frame(PING, b"here")
    yield "ping between fragments", parts[0] + ping + parts[1] + parts[2], answer(PONG, b"here") + whole
    empty = frame(BINARY, fin=False) + frame(CONT, fin=False) + frame(CONT)
    yield "empty fragments", empty, answer(BINARY)
    split = frame(TEXT, text[:1], fin=False) + frame(CONT, text[1:])
    yield "utf-8 cut within a character", split, answer(TEXT, text)
    yield "ping", frame(PING), answer(PONG)
    yield "ping of 125", frame(PING, b"p" * 125), answer(PONG, b"p" * 125)
    yield "ten pings", frame(PING, b"n") * 10, answer(PONG, b"n") * 10
    yield "pong that nobody asked for", frame(PONG, b"x") + frame(TEXT, b"y"), answer(TEXT, b"y")
    yield "many messages", frame(BINARY, b"m" * 50) * 1000, answer(BINARY, b"m" * 50) * 1000
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]:
        yield f"close with {code}", close(code, b"because"), None
    yield "close without a code", frame(CLOSE), None
    yield "close, longest reason", close(1000, b"r" * 123), None
    yield "data behind a close", close(1000) + frame(TEXT, b"late"), None
    for code in [0, 999, 1004, 1005, 1006, 1016, 2999, 5000, 65535]:
        yield f"close with {code}, which is none", close(code), None
    yield "close of one byte", frame(CLOSE, b"x"), None
    yield "close, reason not utf-8", close(1000, b"\xff"), None
    for bits in range(1, 8):
        yield f"reserved bits {bits}", frame(TEXT, b"x", reserved=bits), None
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]:
        yield f"reserved opcode {opcode}", frame(opcode, b"x"), None
    yield "not masked", frame(TEXT, b"x", mask=None), None
    yield "mask of zeros", frame(TEXT, b"x" * 300, mask=b"\0\0\0\0"), answer(TEXT, b"x" * 300)
    yield "ping too long", frame(PING, b"p" * 126), None
    yield "ping in fragments", frame(PING, b"p", fin=False) + frame(CONT, b"q"), None
    yield "nothing to continue", frame(CONT, b"x"), None
    yield "a message within another", frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), None
    yield "text not utf-8", frame(TEXT, b"\xce\xba\xff"), None
    yield "cut behind a length with its highest bit", b"\x82\xff" + b"\xff" * 8 + b"mask", None
    yield "cut within a head", b"\x82", None
    yield "cut within a message", frame(BINARY, b"x" * 1000)[:500], None


def pieces(data):
    """As one, and in pieces of sizes that cut heads, masks and payloads."""
    yield [data]
    yield [data[at : at + 1] for at in range(min(len(data), 200))] + ([data[200:]] if data[200:] else [])
    yield [data[at : at + 1021] for at in range(0, len(data), 1021)]


def read_head(stream):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        assert byte, f"ended within {head}"
        head += byte
    return head


def talk(address, tls, sent, expected, cut):
    """What came back behind the handshake, to the end of the connection."""
    host, port = address.rsplit(":", 1)
    stream = socket.create_connection((host, int(port)), DEADLINE)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        stream = context.wrap_socket(stream, server_hostname="test.example")
    with stream:
        stream.sendall(
            b"GET /chat HTTP/1.1\r\nHost: test.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Protocol: chat\r\n\r\n"
        )
        head = read_head(stream)
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head, head
        received = b""
        try:
            for piece in sent:
                stream.sendall(piece)
            while expected is not None and len(received) < len(expected):
                piece = stream.recv(1 << 16)
                assert piece, f"ended after {len(received)} bytes of {len(expected)}"
                received += piece
            assert expected is None or received == expected, "something else came back"
            if expected is not None:
                stream.sendall(close(1000))
            elif cut:
                stream.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has said what it has to say
        while True:
            try:
                piece = stream.recv(1 << 16)
            except (ConnectionResetError, ssl.SSLEOFError):
                piece = b""
            if not piece:
                return received
            received += piece


def main(server, plain, secure):
    count = 0
    for name, data, expected in cases():
        cut = name.startswith("cut")
        direct = talk(server, False, [data], expected, cut)
        for sent in pieces(data):
            for address, tls in [(plain, False), (secure, True)]:
                if cut and tls:
                    continue  # what Python does with half a TLS connection is its own
                through = talk(address, tls, sent, expected, cut)
                assert through == direct, f"{name}: {through[:100]!r} instead of {direct[:100]!r}"
                count += 1
    print(f"{count} conversations, all as without a proxy")


main(*sys.argv[1:])
