"""One IPMI 2.0 (RMCP+) session with one BMC: log in, ask, log out. It blocks, and belongs in a thread.

pyghmi does the protocol. Of its two session classes this builds on the simple one: a socket of its own per session,
where the usual one shares sockets and an I/O thread between all BMCs, so that one BMC's packets are worked off in the
call to another, and neither ends with the last session. What the simple one lacks is here: limits on every wait,
sending again, and an error of ours for each way in which a BMC can disappoint.
"""

from __future__ import annotations

import hashlib
import math
import select
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

from pyghmi.exceptions import PyghmiException
from pyghmi.ipmi.private import constants, simplesession

from metalbox.errors import (
    BmcGarbage,
    BmcHung,
    BmcNotSupported,
    BmcRefused,
    BmcSessionsFull,
    BmcUnreachable,
    BmcWrongPassword,
    PowerError,
)

# IPMI 2.0 section 13.28 and 22.30: user names and the passwords of the second generation end here. The password of an
# account may be stored in 16 bytes only, which the BMC does not tell.
USER_BYTES = 16
PASSWORD_BYTES = 20
SHORT_PASSWORD_BYTES = 16
# How long a wait goes on without looking whether the caller still wants the answer.
GLANCE_SECONDS = 0.25
# What a datagram that makes no sense may do to pyghmi's parser.
PARSE_ERRORS = (struct.error, IndexError, ValueError, TypeError, KeyError, AssertionError)

# (authentication, integrity, confidentiality) of tables 13-17 to 13-19, by pyghmi's `attemptedhash`.
SUITE_17 = (3, 4, 1)  # RAKP-HMAC-SHA256, HMAC-SHA256-128, AES-CBC-128
SUITE_3 = (1, 1, 1)  # RAKP-HMAC-SHA1, HMAC-SHA1-96, AES-CBC-128
ATTEMPTED_SHA256 = 256
ATTEMPTED_SHA1 = 1

# RMCP+ status codes, table 13-15.
NO_SESSION_LEFT = frozenset({0x01, 0x0B})
STALE_SESSION = frozenset({0x02, 0x08})
NO_SUCH_PRIVILEGE = frozenset({0x09, 0x0A, 0x0D})  # 0x0D also for an account without administrator's privilege
WRONG_ACCOUNT = NO_SUCH_PRIVILEGE | {0x0C, 0x0F}

# Completion codes, table 5-2.
NOT_SUPPORTED = frozenset({0xC1, 0xC2})
BMC_TIMED_OUT = frozenset({0xC3})
NO_PRIVILEGE = frozenset({0xD4})


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds of waiting. A BMC is slow in commands that make it do something, and quick to greet."""

    greeting: float = 4.0  # until its first answer
    login: float = 8.0  # until the session stands, all of it
    command: float = 10.0  # for one answer
    resend: float = 0.7  # until a request is sent again; then twice as long each time


@dataclass(frozen=True, slots=True)
class Account:
    """Who logs in; `kg` is the BMC's key, empty where none is set."""

    user: str
    password: str
    kg: bytes = b""
    operator: bool = False  # ask for operator's privilege only

    def __repr__(self) -> str:
        return f"Account({self.user!r})"


class Refusal(BmcRefused):
    """A completion code that says no, as a number too."""

    def __init__(self, message: str, *, evidence: str, completion: int) -> None:
        super().__init__(message, evidence=evidence)
        self.completion = completion


class Session(simplesession.Session):  # type: ignore[misc]
    """A session that stands once the object is made. Every method raises PowerError and nothing else."""

    def __init__(self, address: str, port: int, account: Account, *, patience: Patience, deadline: float) -> None:
        """`deadline` (monotonic) bounds the login, and what is asked until somebody sets another."""
        self.where = f"{address} port {port}"
        self.patience = patience
        self.deadline = deadline
        self.used_at = time.monotonic()
        self.socket: socket.socket | None = None
        self.logged = 0
        self.attemptedhash = ATTEMPTED_SHA256
        self.privlevel = 4
        self._heard = 0
        self._unusable: list[bytes] = []  # datagrams since the last one that was understood
        self._is_resending = False
        self._may_resend = True
        self._step = 0
        self._resend_at = self._give_up_at = self._login_until = math.inf
        check_account(account, self.where)
        self._peer = self._resolve(address, port)
        self._open_socket()
        try:
            # kg None: pyghmi takes the password, as section 13.31 wants where no Kg is set. privlevel None: the
            # administrator's, and the operator's for an account that has no more.
            super().__init__(
                bmc=address,
                userid=account.user,
                password=account.password,
                port=port,
                kg=account.kg or None,
                privlevel=3 if account.operator else None,
            )
        except PyghmiException as error:
            self.shut()
            raise BmcRefused(f"{self.where} does not let {account.user!r} log in", evidence=str(error)) from None
        except BaseException:
            self.shut()
            raise

    # -- asking ---------------------------------------------------------------------------------------------------

    def ask(
        self,
        netfn: int,
        command: int,
        data: bytes = b"",
        *,
        lun: int = 0,
        resend: bool = True,
        unsupported: frozenset[int] = frozenset(),
    ) -> bytes:
        """One command and the data of its answer. `unsupported` are completion codes that mean: no such function.

        Without `resend` the request goes out once: for those that must not be carried out twice.
        """
        self._may_resend = resend
        try:
            answer = self.raw_command(netfn, command, data=data, rslun=lun)
        except PyghmiException as error:
            raise BmcHung(f"{self.where} dropped the session", evidence=str(error)) from None
        finally:
            self._may_resend = True
        self.used_at = time.monotonic()
        if code := int(answer["code"]):
            raise completion_error(self.where, netfn, command, code, unsupported)
        return bytes(answer["data"])

    def close(self) -> None:
        """Log out, so that the BMC has the place back now and not after a minute; a silent BMC is not waited for."""
        if self.logged:
            self.deadline = time.monotonic() + 1
            try:
                self.ask(6, 0x3C, struct.pack("<I", self.sessionid))
            except PowerError:
                pass  # the BMC gives the place back by itself after 60 s
            finally:
                self.logged = 0
        self.shut()

    def shut(self) -> None:
        """Close the socket without a word."""
        self.logged = 0
        # pyghmi keeps each session that logged in here, for its other class.
        simplesession.Session.keepalive_sessions.pop(self, None)
        if self.socket is not None:
            self.socket.close()

    def abandon(self) -> None:
        """Make the wait that goes on in another thread end soon."""
        self.deadline = 0.0

    # -- the socket -----------------------------------------------------------------------------------------------

    def _resolve(self, address: str, port: int) -> tuple[int, Any]:
        try:
            family, _, _, _, peer = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        except (OSError, UnicodeError) as error:
            raise BmcUnreachable(f"{address!r} is no address and no known name", evidence=str(error)) from None
        return family, peer

    def _open_socket(self) -> None:
        family, peer = self._peer
        self._own = socket.socket(family, socket.SOCK_DGRAM)
        self.socket = self._own
        self._own.setblocking(False)
        try:
            # Connected: foreign datagrams stay out, and a closed port is known at once (ICMP), not by waiting.
            self._own.connect(peer)
        except OSError as error:
            self._own.close()
            raise self._unreachable(error) from None

    def _assignsocket(self, server: object = None) -> socket.socket:
        return self._own

    def _unreachable(self, error: OSError) -> BmcUnreachable:
        if isinstance(error, ConnectionRefusedError):
            return BmcUnreachable(f"nothing listens for IPMI at {self.where}", evidence="ICMP port unreachable")
        return BmcUnreachable(f"there is no way to {self.where}", evidence=error.strerror or str(error))

    def _xmit_packet(self, retry: bool = True, delay_xmit: float | None = None, timeout: float | None = None) -> None:
        if self.sequencenumber:
            self.sequencenumber += 1
        try:
            self._own.send(bytes(self.netpacket))
        except BlockingIOError:
            pass  # a full send queue loses it, as the wire may
        except OSError as error:
            raise self._unreachable(error) from None
        now = time.monotonic()
        self._step = self._step + 1 if self._is_resending else 0
        self._resend_at = now + self.patience.resend * 2**self._step
        if not self._is_resending:
            self._give_up_at = now + (self.patience.command if self.logged else self.patience.greeting)
        if self._login_until is math.inf:
            self._login_until = now + self.patience.login

    def wait_for_rsp(self, timeout: float | None = None, callout: bool = True) -> None:
        """Wait for one datagram, or send again, or give up."""
        now = time.monotonic()
        give_up_at = self._give_up_at if self.logged else min(self._give_up_at, self._login_until)
        if now >= min(give_up_at, self.deadline):
            # If it was this thread that stood still, what it waits for lies in the socket.
            heard = self._heard
            self.process_pktqueue()
            if self._heard == heard:
                raise self._silence()
            return
        if now >= self._resend_at:
            self._resend()
        wait = min(give_up_at, self.deadline, self._resend_at, now + GLANCE_SECONDS) - now
        poll = select.poll()  # not select(): a service with a thousand machines has descriptors above 1023
        poll.register(self._own, select.POLLIN)
        if poll.poll(max(wait, 0) * 1000 + 1):
            self.process_pktqueue()

    def awaitresponse(self, retry: bool) -> None:
        """Wait until the command in flight is answered."""
        while retry and self.lastresponse is None:
            self.wait_for_rsp()

    def process_pktqueue(self) -> None:
        """Work off what has arrived."""
        while True:
            try:
                data = self._own.recv(3000)
            except BlockingIOError:
                return
            except OSError as error:
                raise self._unreachable(error) from None
            self._take(data)

    def _take(self, data: bytes) -> None:
        """One datagram. What makes no sense is kept for the report, and the wait goes on: it may not be the BMC's."""
        try:
            understood = _is_ipmi(data) and self._handle_ipmi_packet(bytearray(data)) not in (-1, -2)
        except PARSE_ERRORS:
            understood = False
        if understood:
            self._heard += 1
            self._unusable = []
        elif len(self._unusable) < 100:
            self._unusable.append(data[:24])

    def _resend(self) -> None:
        self._resend_at = math.inf
        if self.logged and not self._may_resend:
            return
        self._is_resending = True
        try:
            if self.sessioncontext == "OPENSESSION":
                # A BMC may keep silent to a suite that it does not know: offer the other one.
                self.attemptedhash = ATTEMPTED_SHA1 if self.attemptedhash == ATTEMPTED_SHA256 else ATTEMPTED_SHA256
                self.lastpayload = None
                self._open_rmcpplus_request()
            elif self.sessioncontext in ("EXPECTINGRAKP2", "EXPECTINGRAKP4"):
                # BMCs do not take RAKP 1 or 3 twice: begin anew.
                self.lastpayload = None
                self._relog()
            elif self.lastpayload:
                self.send_payload()
        finally:
            self._is_resending = False

    def _silence(self) -> PowerError:
        if self._unusable:
            shown = self._unusable[-1].hex(" ")
            return BmcGarbage(
                f"what answers at {self.where} does not speak IPMI",
                evidence=f"{len(self._unusable)} datagrams, the last begins {shown}",
            )
        if not self._heard:
            return BmcUnreachable(f"nothing answers at {self.where}", evidence="no datagram came back")
        if self.logged:
            return BmcHung(f"{self.where} took a command and does not answer", evidence="silence in the session")
        hint = "; some BMCs do so to a user they do not know" if self.sessioncontext == "EXPECTINGRAKP2" else ""
        return BmcHung(
            f"{self.where} stopped answering in the middle of the login{hint}", evidence=f"{self.sessioncontext}"
        )

    # -- logging in -----------------------------------------------------------------------------------------------

    def _initsession(self) -> None:
        super()._initsession()
        # pyghmi compares with the last one of an earlier attempt otherwise, and drops every answer.
        self.remseqnumber = 0

    def onlogon(self, parameter: dict[str, Any]) -> None:
        """Where all that pyghmi itself finds wrong with a login arrives, as a text."""
        if text := parameter.get("error"):
            user = self.userid.decode(errors="replace")
            if "password" in text or "Kg" in text:
                raise BmcWrongPassword(self._wrong_password(user), evidence=text)
            raise BmcRefused(f"{self.where} does not let {user!r} log in", evidence=text)
        super().onlogon(parameter)

    def _wrong_password(self, user: str) -> str:
        hint = ""
        if len(self.password) > SHORT_PASSWORD_BYTES:
            hint = f"; it has {len(self.password)} bytes, and the BMC may have kept {SHORT_PASSWORD_BYTES} of them"
        return f"{self.where} does not accept the password of {user!r}{hint}"

    def _get_session_challenge(self) -> None:
        raise BmcNotSupported(
            f"{self.where} speaks IPMI 1.5 only, whose sessions are not encrypted", evidence="no IPMI 2.0 capability"
        )

    def _got_rmcp_response(self, data: bytearray) -> Any:
        if self.sessioncontext == "OPENSESSION" and data[0] == self.rmcptag:
            if data[1] in NO_SESSION_LEFT or (data[1] and self.attemptedhash == ATTEMPTED_SHA1):
                raise self._login_error("open session", data[1])
            if not data[1]:
                self._adopt_suite(data)
        return super()._got_rmcp_response(data)

    def _adopt_suite(self, data: bytearray) -> None:
        """Go on with the algorithms that the BMC chose.

        virtualbmc (and every server made of pyghmi) knows cipher suite 3 alone and answers with it whatever was asked;
        pyghmi as a client does not look, goes on with SHA-256 and fails in struct.pack at the shorter hash. A BMC may
        not answer so by the letter of section 13.18, yet nothing is lost: a man in the middle could as well refuse 17.
        Weaker than suite 3 is not accepted, least of all suite 0, which asks for no password.
        """
        if len(data) < 36:
            return
        chosen = (data[16] & 0x3F, data[24] & 0x3F, data[32] & 0x3F)
        offered = SUITE_3 if self.attemptedhash == ATTEMPTED_SHA1 else SUITE_17
        if chosen == offered:
            return
        if chosen != SUITE_3:
            raise BmcRefused(
                f"{self.where} offers no cipher suite that is safe: metalbox speaks 17 and 3",
                evidence=f"authentication {chosen[0]}, integrity {chosen[1]}, confidentiality {chosen[2]}",
            )
        self.attemptedhash = ATTEMPTED_SHA1
        self.currhashlib = hashlib.sha1
        self.currhashlen = 12

    def _got_rakp2(self, data: bytearray) -> Any:
        expected = self.sessioncontext in ("EXPECTINGRAKP2", "EXPECTINGRAKP4") and data[0] == self.rmcptag
        if expected and data[1] and data[1] not in STALE_SESSION:
            if data[1] in NO_SUCH_PRIVILEGE and self.privlevel == 4 and self.autopriv:
                self.privlevel = 3
                self.login()
                return None
            raise self._login_error("RAKP 2", data[1])
        return super()._got_rakp2(data)

    def _got_rakp4(self, data: bytearray) -> Any:
        if self.sessioncontext == "EXPECTINGRAKP4" and data[0] == self.rmcptag and data[1]:
            if data[1] in STALE_SESSION and self.logontries:
                self._relog()
                return None
            raise self._login_error("RAKP 4", data[1])
        return super()._got_rakp4(data)

    def _login_error(self, stage: str, status: int) -> PowerError:
        words = constants.rmcp_codes.get(status, "unknown status")
        evidence = f"status {status:#04x} in {stage}: {words}"
        user = self.userid.decode(errors="replace")
        if status in NO_SESSION_LEFT:
            return BmcSessionsFull(f"{self.where} has no free session; they end after a minute", evidence=evidence)
        if status == 0x0F:
            return BmcWrongPassword(self._wrong_password(user), evidence=evidence)
        if status in WRONG_ACCOUNT:
            return BmcWrongPassword(
                f"{self.where} does not know the user {user!r}, or does not let it log in", evidence=evidence
            )
        return BmcRefused(f"{self.where} does not let {user!r} log in", evidence=evidence)


def check_account(account: Account, where: str) -> None:
    """Raise BmcWrongPassword for an account that no IPMI BMC can have, before a byte is sent."""
    for what, text, limit in (("user", account.user, USER_BYTES), ("password", account.password, PASSWORD_BYTES)):
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise BmcWrongPassword(f"the {what} for {where} contains a half of a character") from None
        if size > limit:
            raise BmcWrongPassword(f"the {what} for {where} has {size} bytes: IPMI takes at most {limit}")
        if "\0" in text:
            raise BmcWrongPassword(f"the {what} for {where} contains a NUL, where IPMI ends it")


def completion_error(where: str, netfn: int, command: int, code: int, unsupported: frozenset[int]) -> PowerError:
    """The error for a completion code that is not 0."""
    specific = constants.command_completion_codes.get((netfn + 1, command), {})
    words = specific.get(code) or constants.ipmi_completion_codes.get(code, "of the vendor's own")
    evidence = f"completion code {code:#04x} for command {netfn:#04x} {command:#04x}: {words}"
    if code in NOT_SUPPORTED or code in unsupported:
        return BmcNotSupported(f"{where} has no such function", evidence=evidence)
    if code in BMC_TIMED_OUT:
        return BmcHung(f"{where} did not finish a command in its own time", evidence=evidence)
    if code in NO_PRIVILEGE:
        return Refusal(f"{where} does not allow this to the account's privilege", evidence=evidence, completion=code)
    return Refusal(f"{where} refused a command", evidence=evidence, completion=code)


def _is_ipmi(data: bytes) -> bool:
    """Whether a datagram has an RMCP header of class IPMI, and a whole payload of a kind that a BMC sends."""
    if len(data) < 16 or data[0] != 6 or data[2:4] != b"\xff\x07":
        return False
    if data[4] == 6:
        return data[5] & 0x3F in (0, 1, 0x11, 0x13, 0x15) and len(data) >= 16 + int.from_bytes(data[14:16], "little")
    start = {0: 14, 2: 30}.get(data[4], len(data))
    return len(data) >= start + 8 and len(data) >= start + data[start - 1]
