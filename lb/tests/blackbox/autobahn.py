"""The cases of Autobahn's WebSocket test suite, to an echo server directly and through proxies: each
has to end through a proxy as it does without, and none may fail without. Arguments: `fetch FOLDER`
gets the suite from PyPI; `serve` is an echo server that prints its port; `run FOLDER EMPTY CASES
MESSAGES URL…` runs the cases (1,9.1: chapters and parts of them), converted into an empty folder, with
at most so many messages each where they send a thousand, against each URL, of which the first is the
server's own.

The suite is of Python 2, whose strings are bytes. Its cases are read as they are, with each byte a
character (latin-1), and what goes to and comes from today's `autobahn` is converted. The suite's own
driver is not used: here cases run side by side, since most of them only wait."""
import binascii
import hashlib
import importlib
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import types

from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
    connectWS,
)
from autobahn.websocket import utf8validator
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from twisted.internet import reactor, ssl

SUITE = "autobahntestsuite==25.10.1"
AT_A_TIME = 24
TRIES = 5
GOOD = ("OK", "NON-STRICT", "INFORMATIONAL")


def raw(text):
    return text.encode("latin-1") if isinstance(text, str) else text


def strings(data):
    return data.decode("latin-1")


class Validator(utf8validator.Utf8Validator):
    def validate(self, text):
        return super().validate(raw(text))


def stand_ins(package):
    """Modules under the names that the cases import, which take strings of Python 2."""
    hexadecimal = types.ModuleType("binascii2")
    hexadecimal.b2a_hex = hexadecimal.hexlify = lambda text: strings(binascii.b2a_hex(raw(text)))
    validator = types.ModuleType("validator2")
    validator.Utf8Validator = Validator
    resources = types.ModuleType("resources2")
    resources.resource_filename = lambda _, name: str(package / name)
    for module in (hexadecimal, validator, resources):
        sys.modules[module.__name__] = module


REPLACED = [
    (r"^from case(\w*) import", r"from .case\1 import"),
    (r"^import binascii *$", "import binascii2 as binascii"),
    (r"^from autobahn.websocket.utf8validator import", "from validator2 import"),
    (r"^import copy, os, pkg_resources, hashlib, binascii$",
     "import copy, os, hashlib\nimport binascii2 as binascii, resources2 as pkg_resources"),
    (r"\(object, Case, ?\)", "(Case,)"),
    (r"\bxrange\(", "range("),
    (r"^( *)print\b.*$", r"\1pass"),
    (r"pickle\.dumps\((\w+)\)", r"\1"),
    (r"^from \.case9_9_1 import \*$", ""),
    (r"\b(request|accept)NoContextTakeover\b", r"\1_no_context_takeover"),
    (r"\b(request|accept)MaxWindowBits\b", r"\1_max_window_bits"),
    (r"\) / self\.p\.", r") // self.p."),
    (r"coding[:=]\s*utf-8", "latin-1 by now"),
]


def fetch(folder):
    """The suite as it is on PyPI, into `folder`."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, SUITE]
    subprocess.run(pip, check=True)
    (archive,) = pathlib.Path(folder).glob("autobahntestsuite-*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(folder)


def cases(suite, folder):
    """The classes of all cases of the suite in `suite`, converted into `folder`."""
    (package,) = suite.glob("autobahntestsuite-*/autobahntestsuite")
    stand_ins(package)
    target = folder / "autobahn_cases"
    target.mkdir()
    for path in (package / "case").glob("*.py"):
        text = strings(path.read_bytes()).replace("\r\n", "\n")
        for pattern, replacement in REPLACED:
            text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
        (target / path.name).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(folder))
    return importlib.import_module("autobahn_cases").Cases


def number(case):
    return case.__name__[len("Case"):].replace("_", ".")


class Client(WebSocketClientProtocol):
    """What the suite's own client offers to a case."""

    def __init__(self):
        super().__init__()
        self.createWirelog = False
        self.connectionWasOpen = False
        self.rxFrameStats, self.txFrameStats = {}, {}
        self.digest = hashlib.sha256()

    def enableWirelog(self, enable):
        self.createWirelog = enable

    def logRxOctets(self, data):
        pass

    def logTxOctets(self, data, sync):
        pass

    def logRxFrame(self, head, payload):
        self.rxFrameStats[head.opcode] = self.rxFrameStats.get(head.opcode, 0) + 1

    def logTxFrame(self, head, *rest):
        self.txFrameStats[head.opcode] = self.txFrameStats.get(head.opcode, 0) + 1

    def later(self, delay, what):
        reactor.callLater(delay, lambda: self.state == self.STATE_CLOSED or what())

    def continueLater(self, delay, what, tag=None):
        self.later(delay, what)

    def killAfter(self, delay):
        self.later(delay, self._fail_connection)

    def closeAfter(self, delay):
        self.later(delay, self.sendClose)

    def sendFrame(self, opcode, payload=b"", **rest):
        super().sendFrame(opcode, raw(payload), **rest)

    def sendMessage(self, payload, isBinary=False, **rest):
        super().sendMessage(raw(payload), isBinary, **rest)

    def sendMessageFrameData(self, payload, sync=False):
        return super().sendMessageFrameData(raw(payload), sync)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        super().sendCloseFrame(code, raw(reasonUtf8), isReply)

    def onOpen(self):
        self.connectionWasOpen = True
        self.case.onOpen()

    def onMessage(self, payload, isBinary):
        self.digest.update(payload)
        # Chapters 12 and 13 take their messages from files, as bytes.
        wants_bytes = number(type(self.case)).split(".")[0] in ("12", "13")
        self.case.onMessage(payload if wants_bytes else strings(payload), isBinary)

    def onPing(self, payload):
        super().onPing(payload)
        self.case.onPing(strings(payload))

    def onPong(self, payload):
        self.case.onPong(strings(payload))

    def onClose(self, wasClean, code, reason):
        self.case.onClose(wasClean, code, reason)

    def connectionLost(self, reason):
        super().connectionLost(reason)
        self.case.onConnectionLost(self.failedByMe)
        self.factory.done({
            "behavior": self.case.behavior,
            "behaviorClose": self.case.behaviorClose,
            "remoteCloseCode": self.remoteCloseCode,
            "closedByMe": self.closedByMe,
            "wasClean": self.wasClean,
            "received": self.digest.hexdigest()[:16],
        })


class Factory(WebSocketClientFactory):
    protocol = Client

    def __init__(self, url, case, done):
        super().__init__(url)
        self.case, self.done = case, done
        self.logOctets = self.logFrames = True
        self.setProtocolOptions(
            failByDrop=False, openHandshakeTimeout=60, closeHandshakeTimeout=30, serverConnectionDropTimeout=30
        )

    def buildProtocol(self, address):
        client = Client()
        client.factory = self
        client.case = self.case(client)
        return client

    def clientConnectionFailed(self, connector, reason):
        self.done({"behavior": f"not connected: {reason.value}"})


class Course:
    """Every case against every URL. One that ends otherwise there is tried again, there and without a
    proxy: a server that is sent more after it has closed may reset what it said last."""

    def __init__(self, chosen, urls):
        self.chosen, self.urls = chosen, urls
        self.waiting = [(case, url) for case in chosen for url in urls]
        self.under_way, self.tries, self.is_over = 0, 1, False
        self.results = {}

    def go_on(self):
        while self.waiting and self.under_way < AT_A_TIME:
            self.start(*self.waiting.pop(0))
        if not self.waiting and not self.under_way and not self.is_over:
            self.end_round()

    def end_round(self):
        again = [case for case in self.chosen if different(self.results[number(case)], self.urls)]
        if not again or self.tries == TRIES:
            self.is_over = True
            return reactor.stop()
        self.tries += 1
        self.waiting = [(case, url) for case in again for url in self.urls]
        self.go_on()

    def start(self, case, url):
        def done(result):
            self.results.setdefault(number(case), {})[url] = result
            self.under_way -= 1
            reactor.callLater(0, self.go_on)

        self.under_way += 1
        connectWS(Factory(url, case, done), ssl.ClientContextFactory() if url.startswith("wss") else None)


def run(suite, folder, patterns, messages, *urls):
    wanted, chosen = patterns.split(","), []
    for case in cases(pathlib.Path(suite), pathlib.Path(folder)):
        if any((number(case) + ".").startswith(it + ".") for it in wanted):
            if hasattr(case, "COUNT"):
                case.COUNT = min(case.COUNT, int(messages))
            chosen.append(case)
    course = Course(chosen, urls)
    reactor.callWhenRunning(course.go_on)
    reactor.run()
    judge(course.results, urls)


def different(by_url, urls):
    """The URLs at which a case has not ended as at the first, or not well."""
    direct = by_url[urls[0]]
    return [url for url in urls if by_url[url] != direct or direct["behavior"] not in GOOD]


def judge(results, urls):
    """Tells how the cases ended, and exits."""
    failures, verdicts = 0, {}
    for name, by_url in results.items():
        direct = by_url[urls[0]]
        verdicts[direct["behavior"]] = verdicts.get(direct["behavior"], 0) + 1
        for url in different(by_url, urls):
            failures += 1
            print(f"case {name}: {json.dumps(by_url[url])} at {url}, {json.dumps(direct)} without")
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    print(f"Autobahn's suite: {len(results)} cases ({told})")
    print(f"{len(results) * (len(urls) - 1)} through a proxy, {failures} not as without it")
    sys.exit(1 if failures or not results else 0)


class Echo(WebSocketServerProtocol):
    def onMessage(self, payload, isBinary):
        self.sendMessage(payload, isBinary)


def serve():
    def accept(offers):
        for offer in offers:
            if isinstance(offer, PerMessageDeflateOffer):
                return PerMessageDeflateOfferAccept(offer)

    factory = WebSocketServerFactory()
    factory.protocol = Echo
    factory.setProtocolOptions(
        failByDrop=False, openHandshakeTimeout=0, closeHandshakeTimeout=3, perMessageCompressionAccept=accept
    )
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    reactor.run()


{"fetch": fetch, "serve": serve, "run": run}[sys.argv[1]](*sys.argv[2:])
