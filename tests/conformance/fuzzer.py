"""
The fuzzing client: runs cases of the Autobahn|Testsuite against a server, and writes Autobahn's reports.

It runs in the environment that ``tool.py`` makes, and is not imported by anything of ours::

    fuzzer.py list PATTERN…              print the cases that match, one a line
    fuzzer.py run URL DIRECTORY CASE…    run those that no other process has begun; results go to DIRECTORY
    fuzzer.py report DIRECTORY           write the report of all results in DIRECTORY

Several processes may run at the same time on one DIRECTORY: each case is run by the first that asks for it.
"""

import codecs
import contextlib
import os
import pickle
import sys
import traceback
from pathlib import Path

from autobahn.twisted.websocket import WebSocketClientFactory, connectWS
from autobahn.websocket import protocol
from autobahntestsuite.case import CaseBasename, CaseCategories, Cases, CaseSetname, CaseSubCategories
from autobahntestsuite.caseset import CaseSet
from autobahntestsuite.fuzzing import FuzzingClientProtocol, FuzzingFactory
from octets import octets, string
from twisted.internet import reactor

AGENT = "uws4r"
# Seconds. Autobahn gives up after one, or half of one, which a busy machine may need for an honest answer. A case
# that passes ends with the answer and not with the limit, so that a longer one takes nothing away from it.
PATIENCE = 5.0
CASES = CaseSet(CaseSetname, CaseBasename, Cases, CaseCategories, CaseSubCategories)


class Masker:
    """Autobahn's own takes each byte for itself, which is most of the time that sections 9, 12 and 13 take."""

    def __init__(self, mask: bytes, length: int | None = None) -> None:
        self._mask = mask
        self._position = 0

    def pointer(self) -> int:
        return self._position

    def process(self, data: bytes) -> bytes:
        size, begin = len(data), self._position % 4
        self._position += size
        mask = (self._mask * (size // 4 + 2))[begin : begin + size]
        return (int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")


class Utf8Validator:
    """The same for the validator of what the server sends; Python's decoder is as strict."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._seen = 0

    def validate(self, data: bytes) -> tuple[bool, bool, int, int]:
        """Return whether all is valid so far, whether a character ends here, where in ``data``, where in all."""
        try:
            self._decoder.decode(data)
        except UnicodeDecodeError as error:
            return False, False, error.start, self._seen + error.start
        self._seen += len(data)
        return True, not self._decoder.getstate()[0], len(data), self._seen


protocol.createXorMasker = Masker
protocol.Utf8Validator = Utf8Validator


class Client(FuzzingClientProtocol):
    """The border between the cases, with their strings of Python 2, and Autobahn."""

    def sendFrame(self, opcode, payload="", fin=True, rsv=0, mask=None, payload_len=None, chopsize=None, sync=False):
        payload = octets(payload)
        if payload_len is not None:  # Autobahn's way to repeat a payload is Python 2, too
            payload = (payload * (payload_len // len(payload) + 1))[:payload_len]
        super().sendFrame(opcode, payload, fin, rsv, mask, None, chopsize, sync)

    def sendMessage(self, payload, isBinary=False, fragmentSize=None):
        super().sendMessage(octets(payload), isBinary, fragmentSize)

    def sendMessageFrameData(self, payload, sync=False):
        super().sendMessageFrameData(octets(payload), sync)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        super().sendCloseFrame(code, None if reasonUtf8 is None else octets(reasonUtf8), isReply)
        if self.localCloseReason is not None:
            self.localCloseReason = string(octets(self.localCloseReason))

    def onMessage(self, payload, isBinary):
        # The cases of sections 12 and 13, which have test data, are made for bytes.
        self.runCase.onMessage(payload if hasattr(self.runCase, "TESTDATA") else string(payload), isBinary)

    def onPong(self, payload):
        self.runCase.onPong(string(payload))

    def killAfter(self, delay):
        super().killAfter(max(delay, PATIENCE))

    def closeAfter(self, delay):
        super().closeAfter(max(delay, PATIENCE))

    def connectionLost(self, reason):
        for name in ("http_request_data", "http_response_data"):
            if hasattr(self, name):
                setattr(self, name, string(octets(getattr(self, name))))
        try:
            super().connectionLost(reason)
        except Exception:  # the case is missing then; Twisted would not go on to the next one
            traceback.print_exc()


class Results(FuzzingFactory):
    """What has become of the cases; it writes the reports."""

    CaseSet = CASES

    def __init__(self, directory: Path) -> None:
        FuzzingFactory.__init__(self, f"{directory}/")
        self.directory = directory


class Run(Results, WebSocketClientFactory):
    """Runs one case after the other, each on a connection of its own."""

    def __init__(self, url: str, directory: Path, cases: list[str]) -> None:
        WebSocketClientFactory.__init__(self, url)
        Results.__init__(self, directory)
        self.specExcludeAgentCases = []
        self.setProtocolOptions(
            failByDrop=False,  # a failed connection is closed as RFC 6455 says
            openHandshakeTimeout=PATIENCE,
            closeHandshakeTimeout=PATIENCE,
            serverConnectionDropTimeout=PATIENCE,
        )
        self.logOctets = self.logFrames = True
        self.cases = iter(cases)

    def next_case(self) -> bool:
        for name in self.cases:
            with contextlib.suppress(FileExistsError):
                # The claim; whoever makes the file runs the case.
                os.close(os.open(self.directory / f"{name}.pickle", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                self.case = name
                return True
        return False

    def buildProtocol(self, addr):
        client = Client()
        client.factory = self
        client.caseAgent = AGENT
        client.case = CASES.CasesIndices[self.case]
        client.Case = CASES.CasesById[self.case]
        client.runCase = client.Case(client)
        return client

    def logCase(self, results):
        (self.directory / f"{results['id']}.pickle").write_bytes(pickle.dumps(results))

    def clientConnectionLost(self, connector, reason):
        if self.next_case():
            connector.connect()
        else:
            reactor.stop()

    def clientConnectionFailed(self, connector, reason):
        print(f"no connection for case {self.case}: {reason.getErrorMessage()}", flush=True)
        reactor.stop()


def run(url: str, directory: Path, cases: list[str]) -> None:
    factory = Run(url, directory, cases)
    if factory.next_case():
        connectWS(factory)
        reactor.run()


def report(directory: Path) -> None:
    results = Results(directory)
    for path in directory.glob("*.pickle"):
        if path.stat().st_size:  # of a case that was begun and has no result there is only the claim
            results.logCase(pickle.loads(path.read_bytes()))
        path.unlink()
    results.createReports()


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    if verb == "list":
        for pattern in arguments:
            if not CASES.CasesById.keys() & CASES.resolveCasePatternList([pattern]):
                sys.exit(f"no such case: {pattern}")
        print(*CASES.parseSpecCases({"cases": arguments}), sep="\n")
    elif verb == "run":
        run(arguments[0], Path(arguments[1]), arguments[2:])
    else:
        report(Path(arguments[0]))
