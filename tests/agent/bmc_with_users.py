"""A BMC's users and LAN channel as commands see them (IPMI 2.0 section 22), with the faults that BMCs have."""

from __future__ import annotations

from dataclasses import dataclass, field

APP, TRANSPORT = 0x06, 0x0C
MEDIUM, OPERATOR, ADMINISTRATOR = 4, 3, 4


@dataclass
class Account:
    name: str = ""
    password: bytes = b""
    enabled: bool = False
    access: int = 0x0F
    sol: bool = False


@dataclass
class BmcWithUsers:
    """`codes` answers a command with a completion code: {command: code}; the other faults have names."""

    channel: int = 1
    most: int = 10
    fixed: int = 1
    mode: int = 2
    limit: int = ADMINISTRATOR
    takes: int = 16  # bytes of a password
    operators: bool = True  # whether an account may be one
    also_changes: int = 0  # this user gets another privilege with each Set User Access
    forgets: bool = False  # says yes to Set User Access and keeps nothing
    silent_names: bool = True  # refuses to tell a name that was never set
    codes: dict[int, int] = field(default_factory=dict)
    users: dict[int, Account] = field(default_factory=dict)
    said: list[tuple[int, int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number in range(1, self.most + 1):
            self.users.setdefault(number, Account())
        self.users[2] = Account("ADMIN", b"operators-own", True, 0x34, True)

    def __call__(self, function: int, command: int, data: bytes) -> bytes:
        self.said.append((function, command, data))
        if function == TRANSPORT:
            value = {3: bytes([192, 0, 2, 11]), 4: b"\1", 5: bytes.fromhex("0200000000bc")}.get(data[1])
            return b"\xc1" if data[0] != self.channel or value is None else b"\0\x11" + value
        if command in self.codes:
            return bytes([self.codes[command]])
        if command == 0x01:
            return bytes.fromhex("00208102130202dfa20200000100000000"[:32])
        if command == 0x42:
            is_lan = data[0] == self.channel
            return bytes([0, data[0], MEDIUM if is_lan else 1, 1, 0x84, 0, 0, 0, 0, 0])
        answers = {
            0x40: self._set_channel, 0x41: self._get_channel, 0x43: self._set_access, 0x44: self._get_access,
            0x45: self._set_name, 0x46: self._get_name, 0x47: self._set_password, 0x4C: self._set_payloads,
        }  # fmt: skip
        return answers[command](data)

    def _get_channel(self, data: bytes) -> bytes:
        return bytes([0, self.mode, self.limit])

    def _set_channel(self, data: bytes) -> bytes:
        self.mode = data[1] & 0x3F
        return b"\0" if data[2] >> 6 == 0 else b"\xcc"

    def _get_access(self, data: bytes) -> bytes:
        user = self.users.get(data[1] & 0x3F)
        if user is None:
            return b"\xc9"
        enabled = sum(other.enabled for other in self.users.values())
        return bytes([0, self.most, (0x40 if user.enabled else 0x80) | enabled, self.fixed, user.access])

    def _set_access(self, data: bytes) -> bytes:
        user = self.users[data[1] & 0x3F]
        privilege = data[2] & 0x0F
        if privilege == OPERATOR and not self.operators:
            return b"\xcc"
        if self.also_changes:
            self.users[self.also_changes].access = data[0] & 0x70 | privilege
        if not self.forgets:
            user.access = data[0] & 0x70 | privilege
        return b"\0"

    def _get_name(self, data: bytes) -> bytes:
        name = self.users[data[0] & 0x3F].name
        return b"\xcc" if self.silent_names and not name else b"\0" + name.encode().ljust(16, b"\0")

    def _set_name(self, data: bytes) -> bytes:
        self.users[data[0] & 0x3F].name = data[1:17].rstrip(b"\0").decode()
        return b"\0"

    def _set_password(self, data: bytes) -> bytes:
        user, operation, size = self.users[data[0] & 0x3F], data[1] & 3, 20 if data[0] & 0x80 else 16
        if operation < 2:
            user.enabled = operation == 1
            return b"\0"
        if size != self.takes or len(data) != 2 + size:
            return b"\xc7"
        if operation == 2:
            user.password = data[2:].rstrip(b"\0")
            return b"\0"
        return b"\0" if data[2:].rstrip(b"\0") == user.password else b"\x80"

    def _set_payloads(self, data: bytes) -> bytes:
        self.users[data[1] & 0x3F].sol = bool(data[2] & 2)
        return b"\0"
