"""The order `bmc-account`: one account for metalbox at the BMC, made or given a new password, past no other account.

    data     user, privilege (operator or administrator), server_key and salt (hex)
    progress public_key (hex), user_id, channel, address, privilege, is_new: taken by the server before anything is set,
             for from then on it can make the password, too, whatever becomes of this machine
    outcome  the same as it came to be, notes (sentences), error ("" when all went well)

The password itself is made at both ends (metalbox.agent.agreement), and is in nothing that is sent or said.
"""

from __future__ import annotations

import os

from metalbox.agent import agreement, bmc
from metalbox.agent.bmcusers import DISABLED, FIRST_ID, MESSAGING, PRIVILEGES, STORED, VOLATILE, WORDS, Said, Users
from metalbox.agent.bmcusers import differences as differences_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from metalbox.agent.bmc import Ask
    from metalbox.agent.errands import Errand

TRIES, PAUSE_SECONDS = 20, 3.0  # until the server has the key


class Impossible(Exception):
    """There can be no account, or there is none now; the message is a sentence."""


def work(errand: Errand) -> dict[str, Any]:
    """Carry the order out; nothing is raised for what the BMC does. Raises Cancelled."""
    errand.claim()
    path = bmc.device()
    if not path:
        return {"error": "this machine's BMC cannot be reached from inside: there is no /dev/ipmi0"}
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return {"error": f"{path} cannot be opened: {error.strerror}"}
    try:
        return make(errand, lambda function, command, data: bmc.exchange(descriptor, function, command, data))
    except OSError as error:
        return {"error": f"the BMC behind {path} does not answer: {error.strerror or error}"}
    finally:
        os.close(descriptor)


def make(errand: Errand, ask: Ask) -> dict[str, Any]:
    """As `work`, with a BMC that is asked by `ask`. Raises OSError when it falls silent."""
    notes: list[str] = []
    try:
        return {**_made(errand, ask, notes), "notes": notes, "error": ""}
    except (Impossible, Said) as error:
        return {"notes": notes, "error": str(error)}


def _made(errand: Errand, ask: Ask, notes: list[str]) -> dict[str, Any]:
    name, wanted, server, salt = _order(errand.data)
    lan = bmc.interrogate(ask)
    channel = lan.get("channel")
    if channel is None:
        raise Impossible("the BMC has no LAN channel with an address or a MAC: an account would be of no use")
    users = Users(ask, channel)
    before = users.read()
    number, is_own = users.choose(before, name)
    if not number:
        raise Impossible(
            f"the BMC's table of users is full: none of the ids {FIRST_ID} to {users.most} is without a name and "
            "disabled; take away an account that nobody needs"
        )
    _check_channel(users, wanted)
    private = os.urandom(32)
    public = agreement.x25519(private, agreement.BASE)
    place = {"user_id": number, "channel": channel, "address": lan.get("address", "")}
    _tell_key(errand, {"public_key": public.hex(), **place, "privilege": wanted, "is_new": not is_own})
    password = agreement.password(private, server, salt, errand.number, server, public)
    privilege, failure = wanted, None
    try:
        privilege = _set_up(users, number, name, password, wanted, notes, is_own=is_own)
    except (Said, Impossible, OSError) as error:
        failure = error
        if not is_own:
            _take_back(users, number, notes)
    if changed := differences_of(before, users.read(), number):
        if not is_own and failure is None:
            _take_back(users, number, notes)
        raise Impossible(
            f"the BMC has changed other accounts while user {number} was set: {'; '.join(changed)}; look at them "
            "before anything else is done" + (f"; besides, {failure}" if failure else "")
        )
    if failure:
        raise failure
    errand.say(f"order {errand.number}: the BMC has the account {name!r} (id {number}, {privilege}, channel {channel})")
    return {
        "public_key": public.hex(),
        **place,
        "privilege": privilege,
        "is_new": not is_own,
        "others": len(before) - 1,
    }


def _order(data: dict[str, Any]) -> tuple[str, str, bytes, bytes]:
    """Name, privilege, the server's public key and the salt. Raises Impossible."""
    try:
        name, privilege = str(data["user"]), str(data["privilege"])
        server, salt = bytes.fromhex(data["server_key"]), bytes.fromhex(data["salt"])
    except (KeyError, TypeError, ValueError):
        raise Impossible("the order names no user, privilege, server_key and salt") from None
    if not (0 < len(name) <= 16 and name.isascii() and name.isalnum()) or privilege not in PRIVILEGES:
        raise Impossible(f"there can be no account {name!r} with the privilege {privilege!r}")
    if len(server) != 32 or len(salt) < 16:
        raise Impossible("the order's key or salt has the wrong length")
    return name, privilege, server, salt


def _tell_key(errand: Errand, intent: dict[str, Any]) -> None:
    """Let the server write the key down before it matters. Raises Impossible."""
    for _ in range(TRIES):
        if errand.progress(intent):
            return
        if errand.cancelled.wait(PAUSE_SECONDS):
            break
    raise Impossible("the server has not taken the key of the new password, so that nothing was changed")


def _set_up(users: Users, number: int, name: str, password: str, wanted: str, notes: list[str], *, is_own: bool) -> str:
    """Make the account, disabled until it is whole; returns its privilege. Raises Said, Impossible, OSError."""
    if not is_own:
        users.set_name(number, name)
    _set_password(users, number, password, notes)
    privilege = _set_access(users, number, wanted, notes)
    _open_channel(users, notes)
    users.enable(number)
    _check(users, number, name, privilege)
    return privilege


def _set_password(users: Users, number: int, password: str, notes: list[str]) -> None:
    size = users.set_password(number, password)
    if size != 16:
        notes.append(f"the BMC stores passwords with {size} bytes only")
    try:
        users.test_password(number, password, size)
    except Said as error:
        if error.code in (0x80, 0x81):
            raise
        notes.append(f"the password could not be confirmed from inside: {error}")


def _set_access(users: Users, number: int, wanted: str, notes: list[str]) -> str:
    """Give the least privilege that the BMC takes; returns which. Raises Said."""
    privilege = wanted
    try:
        users.set_access(number, wanted)
    except Said as error:
        if wanted != "operator":
            raise
        notes.append(f"administrator instead of operator: {error}")
        privilege = "administrator"
        users.set_access(number, privilege)
    try:
        users.allow_console(number)
    except Said as error:
        notes.append(f"the serial console may be closed to it: {error}")
    return privilege


def _check_channel(users: Users, wanted: str) -> None:
    """Raises Impossible when the channel's own limit forbids the privilege: that is the operator's to change."""
    try:
        _, limit = users.channel_access(VOLATILE)
    except Said:
        return
    if 0 < limit < PRIVILEGES[wanted]:
        raise Impossible(
            f"channel {users.channel} lets nobody be more than {WORDS[limit]}, and {wanted} is needed: raise the "
            "channel's privilege limit in the BMC's settings"
        )


def _open_channel(users: Users, notes: list[str]) -> None:
    """A channel that is switched off is switched on, and nothing else of it is changed."""
    for kind, words in ((STORED, "from its next start on"), (VOLATILE, "now")):
        try:
            settings, _ = users.channel_access(kind)
            if settings & 0x07 == DISABLED:
                users.open_channel(kind, settings)
                notes.append(f"IPMI over LAN was switched off on channel {users.channel}: it is switched on ({words})")
        except Said as error:
            notes.append(str(error))


def _check(users: Users, number: int, name: str, privilege: str) -> None:
    """Read back what was set. Raises Impossible."""
    user = users.access(number)
    held = WORDS.get(user.access & 0x0F, "nothing")
    if user.name != name or user.status == 2 or not user.access & MESSAGING or held != privilege:
        raise Impossible(
            f"the BMC took everything, and user {number} is not as it was set: name {user.name!r}, {held}, "
            f"{'disabled' if user.status == 2 else 'enabled'}, "
            f"{'may' if user.access & MESSAGING else 'may not'} use channel {users.channel}"
        )


def _take_back(users: Users, number: int, notes: list[str]) -> None:
    """Leave no half of an account."""
    try:
        users.enable(number, on=False)
        users.set_name(number, "")
        notes.append(f"user {number} was disabled and its name taken away again")
    except (Said, OSError) as error:
        notes.append(f"user {number} is left half made: {error}")
