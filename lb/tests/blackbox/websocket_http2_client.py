"""Talks to an echo server by a WebSocket on a stream of HTTP/2 (packages h2 and wsproto), then waits
for a line to be told to go on."""
import os
import socket
import sys
from urllib.parse import urlsplit
import h2.connection
import h2.events
import h2.settings
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage


class Client:
    def __init__(self, uri):
        parts = urlsplit(uri)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=30)
        self.http = h2.connection.H2Connection()
        self.http.initiate_connection()
        self.messages, self.closed, self.received = [], None, b""
        self.websocket = Connection(ConnectionType.CLIENT)
        self.stream, self.head = None, None
        allows = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL
        while not self.http.remote_settings.get(allows):
            self.step()
        self.stream = self.http.get_next_available_stream_id()
        self.http.send_headers(self.stream, [
            (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"),
            (":authority", parts.netloc), (":path", f"{parts.path}?{parts.query}"),
            ("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat")])
        while self.head is None:
            self.step()
        assert self.head[b":status"] == b"200", self.head
        assert self.head[b"sec-websocket-protocol"] == b"chat", self.head

    def step(self):
        """Receives once, and answers what is to be answered."""
        self.flush()
        data = self.socket.recv(65536)
        assert data, "the connection has ended"
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.head = {bytes_of(name): bytes_of(value) for name, value in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                self.http.acknowledge_received_data(event.flow_controlled_length, self.stream)
                if event.data:
                    self.websocket.receive_data(event.data)
                    self.read()
            elif self.closed is None:
                assert not isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset,
                                              h2.events.ConnectionTerminated)), event
        self.flush()

    def read(self):
        for event in self.websocket.events():
            if isinstance(event, (BytesMessage, TextMessage)):
                empty = b"" if isinstance(event, BytesMessage) else ""
                self.received = (self.received or empty) + event.data
                if event.message_finished:
                    self.messages.append(self.received)
                    self.received = b""
            elif isinstance(event, CloseConnection):
                self.closed = event.code

    def flush(self):
        self.socket.sendall(self.http.data_to_send())

    def send(self, event):
        data = self.websocket.send(event)
        while data:
            room = min(self.http.local_flow_control_window(self.stream),
                       self.http.max_outbound_frame_size)
            if room == 0:
                self.step()
                continue
            self.http.send_data(self.stream, data[:room])
            data = data[room:]
        self.flush()

    def echo(self, message):
        kind = BytesMessage if isinstance(message, bytes) else TextMessage
        self.send(kind(data=message))
        while not self.messages:
            self.step()
        got = self.messages.pop(0)
        assert (got or b"") == (message or b""), "another message came back"

    def close(self):
        self.send(CloseConnection(code=1000))
        while self.closed is None:  # how the stream ends then is the server's own business
            self.step()
        assert self.closed == 1000


def bytes_of(text):
    return text.encode() if isinstance(text, str) else text


client = Client(sys.argv[1])
for message in ["text", "\u00e9" * 1000, b"\0\xff", os.urandom(1_000_000)]:
    client.echo(message)
print("talked", flush=True)
sys.stdin.readline()
client.echo("still there")
client.close()
print("closed", flush=True)
