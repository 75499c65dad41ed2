"""A mail server on this machine that takes mails, refuses them, or is slow: SMTP (RFC 5321) as far
as Django speaks it."""

import email
import email.policy
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage

TAKES, REFUSES, SLOW = "takes", "refuses", "slow"


class MailServer(socketserver.ThreadingTCPServer):
    """`manner` says how it behaves from the next mail on; `mails` are those it took."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.manner = TAKES
        self.seconds = 1.0  # how long it thinks where it is slow
        self.mails: list[EmailMessage] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def to(self, address: str) -> list[EmailMessage]:
        """The mails to one address, in the order in which they came."""
        return [mail for mail in list(self.mails) if address in str(mail["To"])]


class Session(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self._say("220 mail.example ESMTP")
        while line := self.rfile.readline().decode(errors="replace").strip():
            match line.split()[0].upper():
                case "QUIT":
                    return self._say("221 bye")
                case "RCPT" if self.server.manner == REFUSES:
                    self._say("451 try again later")
                case "DATA":
                    self._say("354 go on")
                    self._take()
                case _:
                    self._say("250 yes")

    def _take(self) -> None:
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b"."))
        if self.server.manner == SLOW:
            time.sleep(self.server.seconds)
        mail = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        self.server.mails.append(mail)
        self._say("250 taken")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@contextmanager
def mail_server() -> Iterator[MailServer]:
    with MailServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
