"""Requests of the package h2 to a server that sends each back as it came: many streams at once, bodies of
many windows both ways, a stream that is given up, pings. Arguments: host:port, and `tls` or `plain`."""
import os
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.errors
import h2.events

DEADLINE = 30
STREAMS = 40


class Client:
    def __init__(self, address, secure):
        host, port = address.rsplit(":", 1)
        self.authority, self.scheme = address, "https" if secure else "http"
        self.socket = socket.create_connection((host, int(port)), DEADLINE)
        if secure:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(self.socket, server_hostname="test.example")
            assert self.socket.selected_alpn_protocol() == "h2"
        # It checks every frame and head that it gets, and raises what is wrong with it.
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.heads, self.bodies, self.ended, self.pongs = {}, {}, set(), []
        self.flush()

    def flush(self):
        self.socket.sendall(self.http.data_to_send())

    def step(self):
        data = self.socket.recv(65536)
        assert data, "the connection has ended"
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.heads[event.stream_id] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.PingAckReceived):
                self.pongs.append(event.ping_data)
            else:
                bad = (h2.events.StreamReset, h2.events.ConnectionTerminated)
                assert not isinstance(event, bad), event
        self.flush()

    def begin(self, method, path, ends, more=()):
        stream = self.http.get_next_available_stream_id()
        head = [(":method", method), (":scheme", self.scheme), (":authority", self.authority), (":path", path)]
        self.http.send_headers(stream, [*head, *more], end_stream=ends)
        self.flush()
        return stream

    def send(self, stream, body):
        while body:
            room = min(self.http.local_flow_control_window(stream), self.http.max_outbound_frame_size)
            if room == 0:
                self.step()
                continue
            self.http.send_data(stream, body[:room], end_stream=len(body) <= room)
            body = body[room:]
            self.flush()

    def answer(self, stream):
        while stream not in self.ended:
            self.step()
        assert self.heads[stream][":status"] == "200", self.heads[stream]
        return self.bodies.get(stream, b"")


def text_of(size):
    """The server takes text only."""
    return os.urandom(size // 2 + 1).hex().encode()[:size]


def main(address, how):
    client = Client(address, how == "tls")
    streams = [client.begin("GET", f"/get/{number}", True) for number in range(STREAMS)]
    for number, stream in reversed(list(enumerate(streams))):
        assert client.answer(stream).startswith(f"GET /get/{number} HTTP/1.1\r\n".encode())
    bodies = [text_of(size) for size in (1, 16384, 65535, 65536, 1_000_000)]
    length = lambda body: [("content-length", str(len(body)))]
    posts = [(client.begin("POST", "/post", False, length(body)), body) for body in bodies]
    for stream, body in posts:
        client.send(stream, body)
    for stream, body in posts:
        head, _, back = client.answer(stream).partition(b"\r\n\r\n")
        assert head.startswith(b"POST /post HTTP/1.1\r\n") and back == body, (len(back), len(body))
    given_up = client.begin("POST", "/given-up", False)
    client.http.reset_stream(given_up, h2.errors.ErrorCodes.CANCEL)
    client.http.ping(b"12345678")
    client.flush()
    assert client.answer(client.begin("GET", "/after", True)).startswith(b"GET /after ")
    while not client.pongs:
        client.step()
    assert client.pongs == [b"12345678"]
    print("all answered")


main(*sys.argv[1:])
