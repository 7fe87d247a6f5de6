"""gRPC by grpcio, without generated code: `server` prints its port; `client ADDRESS DEAD STRICT` calls
it through a balancer at ADDRESS, and DEAD, a balancer whose backends are gone, and STRICT, one that
takes heads of 2 KiB, bodies of 1 KiB, and answers some methods by itself."""

import http.client
import sys
import threading
import time
from concurrent import futures

import grpc


def unary(request, context):
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked: 100%")
    if request == b"slow":
        while context.is_active():
            time.sleep(0.01)
        cancelled.set()
    if request == b"deadline":
        return b"%d" % context.time_remaining()
    if request == b"cancelled?":
        return b"yes" if cancelled.wait(10) else b"no"
    context.set_trailing_metadata((("x-trailer", "t"), ("x-bin-bin", b"\x00\xff")))
    context.send_initial_metadata((("x-initial", "i"),))
    return request[::-1]


def server_stream(request, context):
    for n in range(int(request)):
        yield b"%d" % n


def client_stream(requests, context):
    return b"%d" % sum(len(it) for it in requests)


def both(requests, context):
    for it in requests:
        yield it


cancelled = threading.Event()
METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Both": grpc.stream_stream_rpc_method_handler(both),
}
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(32), options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", METHODS),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def fails(call, code):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error
    raise AssertionError(f"no {code}")


def call(address, dead, strict):
    channel = grpc.insecure_channel(address, options=OPTIONS)
    unary = channel.unary_unary("/t.T/Unary")
    answer, done = unary.with_call(b"hello", timeout=20)
    assert answer == b"olleh", answer
    assert ("x-initial", "i") in done.initial_metadata(), done.initial_metadata()
    assert ("x-trailer", "t") in done.trailing_metadata(), done.trailing_metadata()
    assert ("x-bin-bin", b"\x00\xff") in done.trailing_metadata(), done.trailing_metadata()
    large = bytes(range(256)) * 16384
    assert unary(large, timeout=20) == large[::-1]
    assert [*channel.unary_stream("/t.T/ServerStream")(b"500", timeout=20)] == [
        b"%d" % n for n in range(500)
    ]
    parts = (b"x" * 10000 for _ in range(300))
    assert channel.stream_unary("/t.T/ClientStream")(parts, timeout=20) == b"3000000"

    # Each message is sent when the one before has come back.
    turn = threading.Semaphore(1)

    def questions():
        for n in range(100):
            turn.acquire()
            yield b"%d" % n

    seen = []
    for it in channel.stream_stream("/t.T/Both")(questions(), timeout=20):
        seen.append(it)
        turn.release()
    assert seen == [b"%d" % n for n in range(100)], seen

    many = [unary.future(b"%d" % n, timeout=20) for n in range(500)]
    assert [it.result() for it in many] == [(b"%d" % n)[::-1] for n in range(500)]

    error = fails(lambda: unary(b"fail", timeout=20), grpc.StatusCode.FAILED_PRECONDITION)
    assert error.details() == "as asked: 100%", error.details()
    fails(lambda: channel.unary_unary("/t.T/None")(b"", timeout=20), grpc.StatusCode.UNIMPLEMENTED)
    assert 5 <= int(unary(b"deadline", timeout=20)) <= 20, "the deadline is passed on"
    fails(lambda: unary(b"slow", timeout=0.3), grpc.StatusCode.DEADLINE_EXCEEDED)
    assert unary(b"cancelled?", timeout=20) == b"yes", "so is its passing"

    gone = grpc.insecure_channel(dead).unary_unary("/t.T/Unary")
    error = fails(lambda: gone(b"x", timeout=20), grpc.StatusCode.UNAVAILABLE)
    assert "no backend" in error.details(), error.details()
    refuses(strict)
    print("done", flush=True)


def refuses(address):
    code = grpc.StatusCode
    channel = grpc.insecure_channel(address, options=OPTIONS)
    unary = channel.unary_unary("/t.T/Unary")
    assert unary(b"short", timeout=20) == b"trohs"
    error = fails(lambda: unary(b"x" * 5000, timeout=20), code.RESOURCE_EXHAUSTED)
    assert "body is longer" in error.details(), error.details()
    long = (("x-long", "x" * 3000),)
    error = fails(lambda: unary(b"x", timeout=20, metadata=long), code.RESOURCE_EXHAUSTED)
    assert "head is longer" in error.details(), error.details()
    for method, expected in [
        ("Denied", code.PERMISSION_DENIED),
        ("Away", code.UNKNOWN),
        ("Unrouted", code.UNIMPLEMENTED),
    ]:
        other = channel.unary_unary(f"/t.T/{method}")
        error = fails(lambda: other(b"x", timeout=20), expected)
        assert error.details(), method
    assert unary(b"still", timeout=20) == b"llits", "the connection goes on"

    # A call by HTTP/1.1 is answered so, too, and its connection goes on.
    plain = http.client.HTTPConnection(address)
    for method, expected in [("Denied", "7"), ("Unrouted", "12")]:
        kind = {"content-type": "application/grpc+proto"}
        plain.request("POST", f"/t.T/{method}", b"\0\0\0\0\0", kind)
        answer = plain.getresponse()
        assert (answer.status, answer.read()) == (200, b""), answer.status
        assert answer.headers["grpc-status"] == expected, answer.headers
        assert answer.headers["content-type"] == "application/grpc", answer.headers


if sys.argv[1] == "server":
    serve()
else:
    call(*sys.argv[2:])
