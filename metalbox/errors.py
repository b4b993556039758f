"""Every exception metalbox raises on purpose.

MetalboxError
├── ConfigError          the configuration file is wrong; carries path and line; exit code 2
├── StartError           a port is taken, a file is missing: the service cannot start; exit code 1
├── NotFound             no such machine, lease, ...; exit code 3, HTTP 404
├── Refused              understood and not done, with the reason; exit code 4, HTTP 409
├── TimedOut             waited long enough; exit code 5, HTTP 504
├── InvalidValue         a MAC, UUID, address or name that is none; HTTP 400
│   └── InvalidReport    an agent's report that cannot be understood; HTTP 422
├── PowerError           a BMC did not do what was asked; carries code and evidence; exit code 6, HTTP 502
│   ├── BmcUnreachable   unreachable     nothing answers at the address
│   ├── BmcHung          hung            it took the request and never answered; HTTP 504
│   ├── BmcRefused       refused         it understood and said no
│   │   └── BmcConsoleInUse in-use       another client has the machine's console; exit code 4, HTTP 409
│   ├── BmcWrongPassword wrong-password  it does not take these credentials
│   ├── BmcSessionsFull  sessions-full   it has no session left to give
│   ├── BmcGarbage       garbage         what it said cannot be understood
│   ├── BmcBadTls        bad-tls         its certificate or its TLS is not acceptable
│   ├── BmcLicence       licence         the vendor wants a licence for this
│   ├── BmcNotSupported  not-supported   it, or the driver, has no such function; HTTP 501
│   └── BmcNotObeyed     not-obeyed      it said yes, and reading back shows otherwise
├── MalformedPacket      bytes that are not what their port speaks; a counted drop, never a traceback
└── BuildError           an image or boot file could not be made or fetched; exit code 1

A message is a sentence with the offending value in it and, where we know it, what to do next.
"""

from __future__ import annotations


class MetalboxError(Exception):
    """The root: catch this to catch everything that metalbox itself has to say."""

    exit_code = 1
    http_status = 500


class ConfigError(MetalboxError):
    """The configuration cannot be used. `path` and `line` (1-based) say where, when known."""

    exit_code = 2

    def __init__(self, message: str, *, path: str = "", line: int = 0) -> None:
        where = f"{path}:{line}: " if path and line else f"{path}: " if path else ""
        super().__init__(where + message)
        self.path = path
        self.line = line


class StartError(MetalboxError):
    """The service cannot start."""


class NotFound(MetalboxError):
    """What was named does not exist."""

    exit_code = 3
    http_status = 404


class Refused(MetalboxError):
    """Understood, legal to ask, and not done: the message says why and what would be legal."""

    exit_code = 4
    http_status = 409


class TimedOut(MetalboxError):
    """Something outside did not answer in its time."""

    exit_code = 5
    http_status = 504


class InvalidValue(MetalboxError, ValueError):
    """A text that should be a MAC, UUID, address or name, and is not."""

    exit_code = 2
    http_status = 400


class InvalidReport(InvalidValue):
    """An agent's report that breaks the report's shape. The message names the field and the value."""

    http_status = 422


class MalformedPacket(MetalboxError, ValueError):
    """Bytes from the network that are not what their port speaks. Dropped and counted by the caller."""


class BuildError(MetalboxError):
    """An image could not be built, or a package or boot file could not be fetched."""


class PowerError(MetalboxError):
    """A BMC, or what stands in for it, did not do what was asked.

    `code` is the word for programs and rules, `evidence` what the BMC really said, in short and never with a password.
    """

    exit_code = 6
    http_status = 502
    code = "power"

    def __init__(self, message: str, *, evidence: str = "") -> None:
        super().__init__(message)
        self.evidence = evidence


class BmcUnreachable(PowerError):
    """Nothing answers at the address: no route, refused connection, silence before the first byte."""

    code = "unreachable"


class BmcHung(PowerError):
    """It took the connection or the request and did not answer in its time."""

    http_status = 504
    code = "hung"


class BmcRefused(PowerError):
    """It understood and said no; the evidence holds its words."""

    code = "refused"


class BmcConsoleInUse(BmcRefused):
    """Another client has the machine's console: the message says who, where the BMC tells."""

    exit_code = 4
    http_status = 409
    code = "in-use"


class BmcWrongPassword(PowerError):
    """It does not take these credentials, or the account is locked or lacks the privilege to log in."""

    code = "wrong-password"


class BmcSessionsFull(PowerError):
    """It has no session left to give."""

    code = "sessions-full"


class BmcGarbage(PowerError):
    """What it said cannot be understood."""

    code = "garbage"


class BmcBadTls(PowerError):
    """Its certificate is not the expected one, or no common version of TLS exists."""

    code = "bad-tls"


class BmcLicence(PowerError):
    """The function is there and the vendor wants a licence for it."""

    code = "licence"


class BmcNotSupported(PowerError):
    """The BMC, or the driver, has no such function."""

    http_status = 501
    code = "not-supported"


class BmcNotObeyed(PowerError):
    """It said yes, and reading back shows that nothing changed."""

    code = "not-obeyed"
