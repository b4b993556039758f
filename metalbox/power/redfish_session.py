"""One conversation with a Redfish service: HTTP, TLS, log-in and log-out by sushy, and what each failure means.

Blocking: runs in a thread of the driver. sushy's connector, sessions and ETag steps are used; its resource classes are
not, because they refuse whole resources of real BMCs over one missing property. Nothing is repeated here except what
the protocol itself asks for: a new log-in after a lost session, and a PATCH with the ETag that was wanted.
"""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from sushy import auth as sushy_auth
from sushy import exceptions
from sushy.connector import Connector
from sushy.main import Sushy

from metalbox.errors import (
    BmcBadTls,
    BmcGarbage,
    BmcHung,
    BmcLicence,
    BmcNotSupported,
    BmcRefused,
    BmcSessionsFull,
    BmcUnreachable,
    BmcWrongPassword,
    PowerError,
)
from metalbox.power import Credentials

# sushy logs each failure as an error of its own; here failures are raised, and told once by those who asked.
logging.getLogger("sushy").setLevel(logging.CRITICAL)

CONNECT_SECONDS = 5.0
# A Supermicro X10 takes up to 10 s for a system that is in POST; sushy's default is 60 s.
REQUEST_SECONDS = 20.0
# A log of 1,000 entries is about 1 MiB; iDRAC's largest registry 5 MiB.
MAX_BYTES = 8 * 1024 * 1024
EVIDENCE_LENGTH = 300

LICENCE = re.compile(r"licen[sc]e|not licensed", re.IGNORECASE)
# Base.SessionLimitExceeded, iDRAC's RAC0218 "The maximum number of user sessions is reached", and free texts.
SESSIONS = re.compile(
    r"SessionLimitExceeded|RAC0218|(maximum|too many)[^.]{0,40}sessions|sessions?[^.]{0,20}(limit|full|exceeded)",
    re.IGNORECASE,
)
FUTURE_STATE = re.compile(r"OperationSupportedInFutureStateURI|FutureState ?URI", re.IGNORECASE)
READ_ONLY_BOOT = re.compile(r"property Boot is a read-only", re.IGNORECASE)
ETAG_WANTED = re.compile(r"PreconditionHeaderMissing|did not provide the required precondition", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Resource:
    """What a GET gave."""

    path: str
    body: Mapping[str, Any]
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Access:
    """Where the service is and how it is spoken to."""

    url: str  # scheme, host and port
    credentials: Credentials | None = None
    verify: bool | str = False  # of the certificate: not at all, by the known authorities, by those in this file
    fingerprint: str = ""  # SHA-256 of the certificate in hex; goes before `verify`
    log_in: str = "auto"  # session, basic, or auto: a session where the service has them
    request_seconds: float = REQUEST_SECONDS


class MovedToSettings(BmcRefused):
    """The service wants this change in the future state (AMI's /SD, iDRAC 10's Settings), not in the system."""


def _tls(verify: bool | str) -> ssl.SSLContext:
    """The settings of TLS for this way to check certificates."""
    try:
        changed = Path(verify).stat().st_mtime_ns if isinstance(verify, str) else 0
        return _make_tls(verify, changed)
    except OSError as error:  # ssl.SSLError is one
        raise BmcBadTls(f"the authorities in {verify} cannot be read: {error}") from None


@lru_cache(maxsize=16)
def _make_tls(verify: bool | str, changed: int) -> ssl.SSLContext:
    """Shared by all BMCs: reading the known authorities takes 20 ms, ten times the work of a request."""
    if verify:
        return ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    # Whoever is not asked for a certificate may be old too: iLO 4, iDRAC 7 and X9 speak TLS 1.0 or 1.1 with SHA-1.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


class _Adapter(HTTPAdapter):
    """Bounds what one answer may take in time and bytes, and knows the one certificate that is expected."""

    def __init__(self, access: Access) -> None:
        self.seconds = access.request_seconds
        self.fingerprint = access.fingerprint
        self.context = _tls(access.verify)
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
        if self.fingerprint:
            kwargs["assert_fingerprint"] = self.fingerprint
        return super().init_poolmanager(*args, ssl_context=self.context, **kwargs)

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        host, _ = super().build_connection_pool_key_attributes(*args, **kwargs)
        # The rest would be authorities to be read again for each connection: the context has them.
        return host, {}

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """The context knows."""

    def send(self, request: requests.PreparedRequest, stream: bool = False, *args: Any, **kwargs: Any) -> Any:
        deadline = time.monotonic() + self.seconds
        # A new connection for each request: some services choke on kept ones (why sushy sends `Connection: close`),
        # others close them without a word, and the next request on it would be lost.
        self.poolmanager.clear()
        response = super().send(request, True, *args, **kwargs)
        content = b""
        for chunk in response.iter_content(65536):
            content += chunk
            if len(content) > MAX_BYTES:
                raise requests.exceptions.ContentDecodingError(f"the answer is longer than {MAX_BYTES} bytes")
            if time.monotonic() > deadline:
                raise requests.exceptions.ReadTimeout(f"the answer took longer than {self.seconds:g} s")
        response._content = content
        return response


class _Connector(Connector):  # type: ignore[misc]  # sushy has no types
    def __init__(self, access: Access) -> None:
        super().__init__(
            access.url,
            verify=access.verify,
            # One attempt: by default it is three with pauses, for minutes, while somebody waits.
            server_side_retries=1,
            default_request_timeout=access.request_seconds,
            connect_timeout=min(CONNECT_SECONDS, access.request_seconds),
        )
        # Neither proxies nor .netrc of the environment: a BMC is on the wire beside us.
        self._session.trust_env = False
        self._session.max_redirects = 3
        adapter = _Adapter(access)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def _op(self, method: str, path: str = "", **kwargs: Any) -> Any:
        kwargs.setdefault("server_side_retries_left", 0)
        try:
            return super()._op(method, path, **kwargs)
        except (AttributeError, TypeError, KeyError, ValueError) as error:
            # sushy takes error bodies apart without looking: a JSON list or number ends here.
            raise exceptions.ExtensionError(error=f"{type(error).__name__} in the answer to {method} {path}") from error


class _LogIn(sushy_auth.SessionAuth):  # type: ignore[misc]
    """A session where the service has them, else HTTP basic.

    Unlike sushy's SessionOrBasicAuth it does not try a refused password a second time as basic: BMCs count failures
    and lock the account.
    """

    def __init__(self, credentials: Credentials | None, kind: str) -> None:
        self.credentials = credentials
        self.kind = kind
        super().__init__(credentials and credentials.user, credentials and credentials.password)

    def _do_authenticate(self) -> None:
        if self.credentials is None:
            return
        if self.kind == "basic" or (self.kind == "auto" and not self._offers_sessions()):
            self._basic()
            return
        try:
            super()._do_authenticate()
        except (exceptions.ResourceNotFoundError, exceptions.MissingXAuthToken):
            self._fall_back()
        except exceptions.HTTPError as error:
            if error.status_code not in (405, 501):
                raise
            self._fall_back()

    def _offers_sessions(self) -> bool:
        root = self._root_resource.json
        return bool(root.get("SessionService") or (root.get("Links") or {}).get("Sessions"))

    def _fall_back(self) -> None:
        if self.kind == "session":
            raise exceptions.ExtensionError(error="the service has no sessions")
        self._basic()

    def _basic(self) -> None:
        assert self.credentials
        self.reset_session_attrs()
        self._connector.set_http_basic_auth(self.credentials.user, self.credentials.password)


class _Root(Sushy):  # type: ignore[misc]
    def __del__(self) -> None:
        """Sushy would log out here, in whichever thread collects the garbage: Session.close does it."""


class Session:
    """An opened conversation. Every failure is a PowerError."""

    def __init__(self, access: Access) -> None:
        """Fetch the service root and log in."""
        self.access = access
        self.host = urlsplit(access.url).netloc
        self._log_in = _LogIn(access.credentials, access.log_in)
        self._connector = _Connector(access)
        try:
            root = _Root(access.url, auth=self._log_in, connector=self._connector)
        except Exception as error:
            self._connector.close()
            raise self._failure(error) from None
        self.root: Mapping[str, Any] = root.json if isinstance(root.json, Mapping) else {}

    @property
    def has_session(self) -> bool:
        """Whether a session of the service is held."""
        return bool(self._log_in.get_session_resource_id())

    def get(self, path: str) -> Resource:
        """Read one resource."""
        path = self._path(path)
        try:
            response = self._connector.get(path)
        except Exception as error:
            raise self._failure(error) from None
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            start = " ".join(response.text[:80].split())
            raise BmcGarbage(f"{self.host} answered GET {path} with no JSON object", evidence=self._clean(start))
        etag = response.headers.get("ETag") or body.get("@odata.etag")
        return Resource(path, body, _tidy(etag) if isinstance(etag, str) else "")

    def post(self, path: str, body: Mapping[str, Any]) -> None:
        """Send one action."""
        path = self._path(path)
        try:
            self._connector.post(path, data=dict(body))
        except Exception as error:
            raise self._failure(error) from None

    def patch(self, resource: Resource, body: Mapping[str, Any], *, needs_etag: bool = False) -> None:
        """Change a resource that was just read. An ETag that has changed meanwhile is read again, once."""
        try:
            self._patch(resource.path, body, resource.etag or ("*" if needs_etag else ""))
        except exceptions.HTTPError as error:
            if error.status_code not in (412, 428) and not ETAG_WANTED.search(_words(error)):
                raise self._failure(error) from None
            fresh = self.get(resource.path)
            try:
                self._patch(fresh.path, body, fresh.etag or "*")
            except Exception as again:
                raise self._failure(again) from None
        except Exception as error:
            raise self._failure(error) from None

    def _patch(self, path: str, body: Mapping[str, Any], etag: str) -> None:
        # sushy's own steps on 412: a weak ETag as a strong one, then none.
        self._connector.patch(path, data=dict(body), etag=etag or None)

    def close(self) -> None:
        """Log out and close the sockets; a service that does not listen any more keeps its session until it expires."""
        try:
            if self.has_session:
                self._log_in.close()
        except Exception:  # whatever it is: there is nobody to tell
            logging.getLogger("metalbox.power").debug("%s: the session was not closed", self.host)
        finally:
            self._connector.close()

    def _path(self, reference: str) -> str:
        """A reference as a path of this host: another host's would be given our password."""
        parts = urlsplit(reference)
        return parts.path + (f"?{parts.query}" if parts.query else "")

    def _clean(self, words: str) -> str:
        if self.access.credentials and self.access.credentials.password:
            words = words.replace(self.access.credentials.password, "***")
        return words[:EVIDENCE_LENGTH]

    # -- what failures mean ------------------------------------------------------------------------------------------

    def _failure(self, error: Exception) -> PowerError:
        if isinstance(error, PowerError):
            return error
        if isinstance(error, exceptions.HTTPError):
            return self._http_failure(error)
        if isinstance(error, exceptions.ConnectionError):
            return self._wire_failure(error.__context__ or error)
        if isinstance(error, requests.exceptions.RequestException):
            return self._wire_failure(error)
        if isinstance(error, exceptions.SushyError | ValueError | AttributeError | TypeError | KeyError):
            return BmcGarbage(f"{self.host} does not speak Redfish as it should", evidence=self._clean(str(error)))
        raise error

    def _http_failure(self, error: exceptions.HTTPError) -> PowerError:
        words = self._clean(_words(error))
        status = error.status_code
        if SESSIONS.search(words):
            return BmcSessionsFull(
                f"{self.host} has no session left: end some in its web interface, or wait until they expire",
                evidence=words,
            )
        if LICENCE.search(words):
            return BmcLicence(f"{self.host} wants a licence for this: {words}", evidence=words)
        if status in (401, 403):
            user = self.access.credentials.user if self.access.credentials else ""
            sentence = f"{self.host} wants a user and a password"
            if user:
                sentence = f"{self.host} does not let {user} in: wrong password, locked account, or too few rights"
            return BmcWrongPassword(sentence, evidence=words or f"HTTP {status}")
        if FUTURE_STATE.search(words) or READ_ONLY_BOOT.search(words):
            return MovedToSettings(f"{self.host} takes this change only for its future state: {words}", evidence=words)
        if isinstance(error, exceptions.MissingXAuthToken):
            return BmcGarbage(f"{self.host} opened a session and gave no token", evidence=words)
        if status in (404, 405, 501):
            return BmcNotSupported(f"{self.host} has no such resource or action (HTTP {status})", evidence=words)
        return BmcRefused(f"{self.host} refused with HTTP {status}: {words or 'it gives no reason'}", evidence=words)

    def _wire_failure(self, error: BaseException) -> PowerError:
        words = self._clean(" ".join(str(error).split()))
        if isinstance(error, requests.exceptions.SSLError):
            return BmcBadTls(_tls_sentence(self.host, words), evidence=words)
        if isinstance(error, requests.exceptions.ConnectTimeout):
            return BmcUnreachable(f"{self.host} does not answer", evidence="no connection")
        if isinstance(error, requests.exceptions.ReadTimeout):
            seconds = self.access.request_seconds
            return BmcHung(f"{self.host} took the request and did not answer within {seconds:g} s", evidence=words)
        if re.search(r"BadStatusLine|LineTooLong|InvalidHeader|HTTPException|got more than \d+ headers", words):
            return BmcGarbage(f"{self.host} does not speak HTTP", evidence=words)
        if isinstance(error, requests.exceptions.ConnectionError):
            if "timed out" in words:
                return BmcHung(f"{self.host} stopped in the middle of its answer", evidence=words)
            if "NewConnectionError" in words or "refused" in words:
                reason = "nothing listens there" if "refused" in words else "there is no way to it"
                return BmcUnreachable(f"{self.host} cannot be reached: {reason}", evidence=words)
            # The request may have been read before: who asked for a restart must not ask again.
            return BmcHung(f"{self.host} closed the connection without an answer", evidence=words)
        return BmcGarbage(f"{self.host} gave an answer that cannot be read", evidence=words)


def _tls_sentence(host: str, words: str) -> str:
    if "ingerprint" in words:
        return f"the certificate of {host} is not the one that is expected: it was renewed, or this is not the BMC"
    if "WRONG_VERSION_NUMBER" in words or "record layer" in words:
        return f"{host} does not speak TLS there: set `scheme` to http, or the right port"
    if "CERTIFICATE_VERIFY_FAILED" in words or "certificate verify failed" in words:
        return f"the certificate of {host} is not trusted: set `verify` to its authority's file, its sha256, or to no"
    return f"no TLS connection to {host} could be made"


def _tidy(etag: str) -> str:
    # Quoted twice by some (ansible-collections/community.general pull 3268).
    return etag[1:-1] if etag.startswith('""') and etag.endswith('""') else etag


def _words(error: exceptions.HTTPError) -> str:
    """What the service said: message ids and messages, without repeats."""
    said: list[str] = []
    extended = error.extended_info if isinstance(error.extended_info, list) else [error.extended_info]
    for item in [entry for entry in extended if isinstance(entry, Mapping)]:
        said += [str(item.get("MessageId") or ""), str(item.get("Message") or "")]
    said.append(str(error.detail or ""))
    return " ".join(dict.fromkeys(word for word in said if word))
