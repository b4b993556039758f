"""A BMC's table of users as IPMI 2.0 section 22 has it: read whole, changed at one place, compared afterwards.

A user has an id (1 to 63), a name, a password, and for each channel what it may do there.
"""

from __future__ import annotations

from collections import namedtuple

from metalbox.agent.bmc import APP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from metalbox.agent.bmc import Ask

SET_CHANNEL_ACCESS, GET_CHANNEL_ACCESS, SET_ACCESS, GET_ACCESS = 0x40, 0x41, 0x43, 0x44
SET_NAME, GET_NAME, SET_PASSWORD, SET_PAYLOADS, GET_PAYLOADS = 0x45, 0x46, 0x47, 0x4C, 0x4D
DISABLE, ENABLE, STORE, TEST = 0, 1, 2, 3  # Set User Password, byte 2
PRIVILEGES = {"operator": 3, "administrator": 4}
WORDS = {1: "callback", 2: "user", 3: "operator", 4: "administrator", 5: "OEM"}
# Id 1 is the user without a name (22.28), 2 the maker's own account on nearly every BMC.
FIRST_ID = 3
MOST_IDS = 63
NAME_BYTES = 16
NOT_STORED, STORED, VOLATILE = 0x00, 0x40, 0x80
DISABLED, ALWAYS = 0, 2  # table 22-28: access modes of a channel
MESSAGING, LINK = 0x10, 0x20
WRONG_LENGTH = frozenset({0xC6, 0xC7, 0xC8, 0xCC})
# Table 5-2; 0x80 to 0x9F mean something else with each command.
CODES = {
    0xC0: "it is busy", 0xC1: "it does not know this command", 0xC3: "it took too long",
    0xC4: "it has no space left", 0xC6: "the data are too short or too long", 0xC7: "the length of the data is wrong",
    0xC8: "the data are too long", 0xC9: "a value is out of its range", 0xCB: "there is no such thing",
    0xCC: "a value is not valid", 0xCD: "the command is not allowed here", 0xCE: "it could not answer",
    0xD0: "its data are being updated", 0xD1: "its firmware is being updated", 0xD2: "it is starting",
    0xD4: "the privilege does not suffice, or the function is locked", 0xD5: "it is not possible in its present state",
    0xD6: "the function is switched off", 0xFF: "it does not say why",
}  # fmt: skip
PASSWORD_CODES = {0x80: "the password is another one", 0x81: "the password was stored with another size"}

# `name` is None when it cannot be read; `status` 1 is enabled, 2 disabled, 0 not told; `access` is byte 5 of Get User
# Access (bits: 6 callback only, 5 link, 4 messaging, 3 to 0 privilege); `code` what the BMC said instead, 0 is fine.
User = namedtuple("User", "name status access code")


class Said(Exception):
    """The BMC said no; the message is a sentence with the completion code."""

    def __init__(self, what: str, code: int, words: str) -> None:
        super().__init__(f"the BMC does not {what}: {words} (completion code {code:#04x})")
        self.code = code


class Users:
    """The table as one LAN channel sees it."""

    def __init__(self, ask: Ask, channel: int) -> None:
        self._ask = ask
        self.channel = channel
        self.fixed = 0  # ids 1 to this one have names that cannot be changed
        self.most = 0

    def read(self) -> dict[int, User]:
        """Every user by id. Raises Said when the table cannot be read at all."""
        first = self._say("tell who its users are", GET_ACCESS, bytes([self.channel, 1]), least=5)
        self.most = min(first[1] & 0x3F, MOST_IDS)
        self.fixed = first[3] & 0x3F
        return {number: self._user(number) for number in range(1, self.most + 1)}

    def _user(self, number: int) -> User:
        answer = self._ask(APP, GET_ACCESS, bytes([self.channel, number]))
        if len(answer) < 5 or answer[0]:
            return User(None, 0, 0, answer[0] if answer and answer[0] else 0xFF)
        name = self._ask(APP, GET_NAME, bytes([number]))
        # Many BMCs refuse to tell a name that was never set.
        unset = name[:1] in (b"\xcb", b"\xcc")
        text = (
            "" if unset else name[1:17].split(b"\0")[0].rstrip(b"\xff").decode("latin-1") if name[:1] == b"\0" else None
        )
        return User(text, answer[2] >> 6, answer[4], 0)

    def choose(self, table: dict[int, User], name: str) -> tuple[int, bool]:
        """The id for this name, and whether it has it already; (0, False) when the table is full."""
        own = [number for number, user in table.items() if user.name == name and number > 1]
        if own:
            return own[0], True
        free = [number for number, user in table.items() if number >= FIRST_ID and self._is_free(number, user)]
        return (free[0], False) if free else (0, False)

    def _is_free(self, number: int, user: User) -> bool:
        """Whether nobody uses it. One without a name that is enabled is somebody's: it may log in without one."""
        if user.code or user.name != "" or number <= self.fixed or user.status == 1:
            return False
        return user.status == 2 or not user.access & MESSAGING or user.access & 0x0F in (0, 0x0F)

    def set_name(self, number: int, name: str) -> None:
        """ "": take the name away. Raises Said."""
        data = bytes([number]) + name.encode("ascii").ljust(NAME_BYTES, b"\0")
        self._say(f"take the user name {name!r} for id {number}" if name else "clear a name", SET_NAME, data)

    def set_password(self, number: int, password: str) -> int:
        """Store it with 16 bytes, or with 20 where the BMC wants that; returns which. Raises Said."""
        try:
            self._password(number, STORE, password, 16)
        except Said as error:
            if error.code not in WRONG_LENGTH:
                raise
            self._password(number, STORE, password, 20)
            return 20
        return 16

    def test_password(self, number: int, password: str, size: int) -> None:
        """Raises Said, with code 0x80 or 0x81 when it is another one."""
        self._password(number, TEST, password, size)

    def enable(self, number: int, *, on: bool = True) -> None:
        """Let it log in, or not. Raises Said."""
        what = f"{'enable' if on else 'disable'} user {number}"
        try:
            self._say(what, SET_PASSWORD, bytes([number, ENABLE if on else DISABLE]))
        except Said as error:
            if error.code not in WRONG_LENGTH:
                raise
            # Some want the bytes of a password that they do not look at.
            self._say(what, SET_PASSWORD, bytes([number, ENABLE if on else DISABLE]) + bytes(16))

    def _password(self, number: int, operation: int, password: str, size: int) -> None:
        what = f"{'store' if operation == STORE else 'confirm'} a password of {size} bytes for user {number}"
        flag = 0x80 if size == 20 else 0
        data = bytes([flag | number, operation]) + password.encode("ascii").ljust(size, b"\0")
        self._say(what, SET_PASSWORD, data, words=PASSWORD_CODES)

    def set_access(self, number: int, privilege: str) -> None:
        """Messaging by LAN with this privilege at most. Raises Said."""
        data = bytes([0x80 | LINK | MESSAGING | self.channel, number, PRIVILEGES[privilege], 0])
        what = f"let user {number} be {privilege} on channel {self.channel}"
        try:
            self._say(what, SET_ACCESS, data)
        except Said as error:
            if error.code not in WRONG_LENGTH:
                raise
            self._say(what, SET_ACCESS, data[:3])  # the last byte is optional

    def access(self, number: int) -> User:
        """One user as it is now."""
        return self._user(number)

    def allow_console(self, number: int) -> None:
        """Serial over LAN for this user (payload type 1). Raises Said."""
        data = bytes([self.channel, number, 0x02, 0, 0, 0])
        self._say(f"let user {number} open the serial console", SET_PAYLOADS, data)

    def channel_access(self, kind: int) -> tuple[int, int]:
        """What the channel lets anybody do: its settings with the access mode, its highest privilege. Raises Said."""
        what = f"tell whether channel {self.channel} is open"
        answer = self._say(what, GET_CHANNEL_ACCESS, bytes([self.channel, kind]), least=3)
        return answer[1], answer[2] & 0x0F

    def open_channel(self, kind: int, settings: int) -> None:
        """Set the access mode to "always" and leave all else, the privilege too. Raises Said."""
        data = bytes([self.channel, kind | settings & 0x38 | ALWAYS, 0])
        self._say(f"open channel {self.channel}", SET_CHANNEL_ACCESS, data)

    def _say(
        self, what: str, command: int, data: bytes, *, least: int = 1, words: dict[int, str] | None = None
    ) -> bytes:
        answer = self._ask(APP, command, data)
        code = answer[0] if answer else 0xFF
        if code:
            known = {**CODES, **(words or {})}
            raise Said(what, code, known.get(code, "for a reason of its maker's own"))
        if len(answer) < least:
            raise Said(what, 0xFF, "its answer is too short")
        return answer


def differences(before: dict[int, User], after: dict[int, User], own: int) -> list[str]:
    """What is different at other ids than `own`, as clauses; [] when they are as they were."""
    found = []
    for number in sorted(set(before) | set(after)):
        old, new = before.get(number), after.get(number)
        if number == own or old == new:
            continue
        if old is None or new is None:
            found.append(f"user {number} {'appeared' if old is None else 'vanished'}")
            continue
        for field, was, now in zip(User._fields, old, new, strict=True):
            if was != now:
                found.append(f"the {field} of user {number} was {was!r} and is {now!r}")
    return found
