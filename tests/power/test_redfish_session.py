"""Log-in, log-out, ETags, and each fault by its name: a real HTTP(S) server that misbehaves."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

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
from metalbox.power.redfish_session import Access, MovedToSettings, Session
from tests.power.redfish_service import (
    PASSWORD,
    SESSIONS,
    USER,
    Answer,
    Service,
    error,
    make_certificate,
    running,
)

SYSTEM = "/redfish/v1/Systems/1"
GET_SYSTEM = f"GET {SYSTEM}"
LOG_IN = f"POST {SESSIONS}"
BODY = {"IndicatorLED": "Blinking"}


@pytest.fixture
def service() -> Iterator[Service]:
    with running(Service()) as service:
        yield service


def access(service: Service, password: str = PASSWORD, **changes: object) -> Access:
    ready = Access(service.url, Credentials(USER, password), request_seconds=60)
    return dataclasses.replace(ready, **changes)  # type: ignore[arg-type]


# -- log-in ------------------------------------------------------------------------------------------------------------


def test_a_session_is_opened_used_and_closed(service: Service) -> None:
    session = Session(access(service))
    assert session.has_session
    assert session.get(SYSTEM).body["Id"] == "1"
    assert service.requests[-1][3]["X-Auth-Token"] in service.sessions
    assert "Authorization" not in service.requests[-1][3]
    session.close()
    assert service.sessions == {}
    session.close()


@pytest.mark.parametrize("status", [404, 405, 501])
def test_basic_where_there_are_no_sessions(service: Service, status: int) -> None:
    service.faults[LOG_IN] = Answer(status)
    session = Session(access(service))
    assert not session.has_session
    assert session.get(SYSTEM).body["Id"] == "1"
    assert service.requests[-1][3]["Authorization"].startswith("Basic ")
    session.close()


def test_basic_without_asking_where_none_are_offered(service: Service) -> None:
    del service.tree["/redfish/v1"]["Links"]
    Session(access(service)).get(SYSTEM)
    assert not service.asked("POST")


def test_basic_when_told_so(service: Service) -> None:
    Session(access(service, log_in="basic")).get(SYSTEM)
    assert not service.asked("POST")


def test_session_when_told_so(service: Service) -> None:
    service.faults[LOG_IN] = Answer(404)
    with pytest.raises(BmcGarbage):
        Session(access(service, log_in="session"))


def test_no_token_is_given(service: Service) -> None:
    service.faults[LOG_IN] = Answer(201, {"@odata.id": SESSIONS + "/1"})
    assert Session(access(service)).get(SYSTEM)
    with pytest.raises(BmcGarbage):
        Session(access(service, log_in="session"))


def test_nobody_needs_to_be_known(service: Service) -> None:
    service.open_to_all = True
    assert Session(access(service, credentials=None)).get(SYSTEM)


def test_a_refused_password_is_tried_once(service: Service) -> None:
    """BMCs count failures and lock the account."""
    with pytest.raises(BmcWrongPassword, match="wrong password, locked account, or too few rights") as caught:
        Session(access(service, "no-such-word"))
    assert len(service.asked("POST")) == 1
    assert "no-such-word" not in str(caught.value) + caught.value.evidence


def test_a_refused_basic_password(service: Service) -> None:
    with pytest.raises(BmcWrongPassword):
        Session(access(service, "no-such-word", log_in="basic")).get(SYSTEM)
    assert len(service.asked("GET", SYSTEM)) == 1


def test_a_dropped_session_is_opened_again(service: Service) -> None:
    session = Session(access(service))
    service.sessions.clear()
    assert session.get(SYSTEM).body["Id"] == "1"
    assert len(service.sessions) == 1
    session.close()
    assert service.sessions == {}


def test_closing_what_does_not_listen_any_more(service: Service) -> None:
    session = Session(access(service))
    service.faults["DELETE .*"] = Answer(500)
    session.close()
    other = Session(access(service))
    service.faults["DELETE .*"] = Answer(raw=b"bye")
    other.close()


def test_a_foreign_host_gets_no_token(service: Service) -> None:
    """A reference to another host is read as a path of this one."""
    with running(Service(open_to_all=True)) as other:
        session = Session(access(service))
        assert session.get(other.url + SYSTEM).path == SYSTEM
        assert not other.requests
        session.close()


# -- ETags -------------------------------------------------------------------------------------------------------------


def test_the_etag_that_was_read_is_sent(service: Service) -> None:
    service.wants_etag = True
    session = Session(access(service))
    session.patch(session.get(SYSTEM), BODY)
    assert service.requests[-1][3]["If-Match"] == '"1"'
    session.close()


def test_a_stale_etag_is_read_again(service: Service) -> None:
    service.wants_etag = True
    session = Session(access(service))
    resource = session.get(SYSTEM)
    service.versions[SYSTEM] = 7
    session.patch(resource, BODY)
    assert service.system["IndicatorLED"] == "Blinking"
    assert service.requests[-1][3]["If-Match"] == '"7"'
    session.close()


def test_an_etag_that_is_wanted_and_not_offered(service: Service) -> None:
    """AMI: the header is missing in what was read, and wanted in what is written."""
    service.wants_etag = True
    service.faults[GET_SYSTEM] = Answer(200, service.system)
    session = Session(access(service))
    session.patch(session.get(SYSTEM), BODY)
    assert service.requests[-1][3]["If-Match"] == "*"
    before = len(service.asked("PATCH"))
    session.patch(session.get(SYSTEM), BODY, needs_etag=True)
    assert len(service.asked("PATCH")) == before + 1
    session.close()


def test_a_twice_quoted_etag(service: Service) -> None:
    service.faults[GET_SYSTEM] = Answer(200, service.system, {"ETag": '""5""'})
    session = Session(access(service))
    assert session.get(SYSTEM).etag == '"5"'
    session.close()


def test_a_precondition_that_never_fits(service: Service) -> None:
    service.faults[f"PATCH {SYSTEM}"] = error(412, "Base.1.0.PreconditionFailed", "The ETag did not match")
    session = Session(access(service))
    with pytest.raises(BmcRefused, match="412"):
        session.patch(session.get(SYSTEM), BODY)
    session.close()


# -- faults by their names ---------------------------------------------------------------------------------------------

HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<html>Welcome</html>"
SMC_LICENCE = "Not licensed to perform this request. The following licenses OOB or DCMS were needed"


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (error(401, "Base.1.0.NoValidSession", "no session"), BmcWrongPassword, "does not let operator in"),
        (error(403, "Base.1.0.InsufficientPrivilege", "no rights"), BmcWrongPassword, "too few rights"),
        (error(403, "SMC.1.0.OemLicenseNotPassed", SMC_LICENCE), BmcLicence, "wants a licence"),
        (error(400, "iLO.2.14.LicenseKeyRequired", "A license key is required"), BmcLicence, "wants a licence"),
        (error(503, "IDRAC.2.4.RAC0218", "The maximum number of user sessions is reached."), BmcSessionsFull, "left"),
        (error(400, "Base.1.0.SessionLimitExceeded", "too many simultaneous sessions"), BmcSessionsFull, "no session"),
        (error(404, "Base.1.0.ResourceMissingAtURI", "not found"), BmcNotSupported, "no such resource"),
        (error(500, "IDRAC.2.4.SYS518", "iDRAC is not ready"), BmcRefused, "500: IDRAC.2.4.SYS518 iDRAC is not ready"),
        (error(400, "Base.1.0.PropertyUnknown", "The property X is unknown"), BmcRefused, "The property X is unknown"),
        (error(400, "Ami.1.0.OperationSupportedInFutureStateURI", "moved"), MovedToSettings, "future state"),
        (error(409, "Base.1.0.ResourceInUse", f"it is {PASSWORD}"), BmcRefused, r"it is \*\*\*"),
        (Answer(raw=HTML.replace(b"200 OK", b"502 Bad Gateway")), BmcRefused, "502: it gives no reason"),
        (Answer(500, [1, 2]), BmcGarbage, "does not speak Redfish"),
        (Answer(200, [1, 2]), BmcGarbage, "no JSON object"),
        (Answer(raw=HTML), BmcGarbage, "no JSON object"),
        (Answer(raw=b"SSH-2.0-dropbear\r\n"), BmcGarbage, "does not speak HTTP"),
        (Answer(raw=b"\x16\x03\x01\x00\xff\xfe\x00\r\n\r\n"), BmcGarbage, "does not speak HTTP"),
        (Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"), BmcGarbage, "cannot be read"),
        (Answer(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), BmcGarbage, "cannot be read"),
        (Answer(302, None, {"Location": SYSTEM}), BmcGarbage, "cannot be read"),
        (Answer(hang=0.05), BmcHung, "closed the connection without an answer"),
    ],
)
def test_faults(service: Service, fault: Answer, kind: type[PowerError], words: str) -> None:
    session = Session(access(service))
    service.faults[GET_SYSTEM] = fault
    with pytest.raises(kind, match=words) as caught:
        session.get(SYSTEM)
    assert PASSWORD not in str(caught.value) + caught.value.evidence
    assert caught.value.__cause__ is None
    session.close()


def test_a_full_session_table(service: Service) -> None:
    service.max_sessions = 0
    with pytest.raises(BmcSessionsFull, match="no session left: end some"):
        Session(access(service))


@pytest.mark.parametrize("where", ["GET /redfish/v1", GET_SYSTEM])
def test_silence(service: Service, where: str) -> None:
    service.faults[where] = Answer(hang=5)
    with pytest.raises(BmcHung, match=r"did not answer within 0\.3 s"):
        Session(access(service, request_seconds=0.3)).get(SYSTEM)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_and_then_silence(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BmcHung, match="did not answer"):
            Session(Access(url, request_seconds=0.3))


def test_an_answer_without_end(service: Service) -> None:
    service.faults["GET /redfish/v1"] = Answer(200, {"Id": "x", "Noise": "y" * (9 * 1024 * 1024)})
    with pytest.raises(BmcGarbage):
        Session(access(service))


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BmcUnreachable, match="nothing listens there"):
            Session(Access(url))


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    return make_certificate(folder), make_certificate(folder, "other")


@pytest.fixture
def tls(certificates: tuple[Path, Path]) -> Iterator[Service]:
    with running(Service(), certificates[0]) as service:
        yield service


def fingerprint(certificate: Path) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.with_suffix(".crt").read_text())).hexdigest()


def test_certificates_that_are_taken(tls: Service, certificates: tuple[Path, Path]) -> None:
    for changes in (
        {"verify": False},
        {"verify": str(certificates[0].with_suffix(".crt"))},
        {"fingerprint": fingerprint(certificates[0])},
    ):
        session = Session(access(tls, **changes))
        assert session.get(SYSTEM)
        session.close()


def test_certificates_that_are_not_taken(tls: Service, certificates: tuple[Path, Path]) -> None:
    for changes, words in (
        ({"verify": True}, "is not trusted: set `verify`"),
        ({"verify": str(certificates[1].with_suffix(".crt"))}, "is not trusted"),
        ({"fingerprint": fingerprint(certificates[1])}, "not the one that is expected"),
    ):
        with pytest.raises(BmcBadTls, match=words):
            Session(access(tls, **changes))
    assert not tls.requests


def test_a_file_without_certificates(tls: Service, tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    for text in ("", "no certificate"):
        empty.write_text(text)
        with pytest.raises(BmcBadTls, match=r"authorities in .*ca\.pem cannot be read"):
            Session(access(tls, verify=str(empty)))
    empty.unlink()
    with pytest.raises(BmcBadTls, match="cannot be read"):
        Session(access(tls, verify=str(empty)))


def test_a_file_that_was_renewed(tls: Service, certificates: tuple[Path, Path], tmp_path: Path) -> None:
    authorities = tmp_path / "ca.pem"
    authorities.write_bytes(certificates[1].with_suffix(".crt").read_bytes())
    with pytest.raises(BmcBadTls):
        Session(access(tls, verify=str(authorities)))
    authorities.write_bytes(certificates[0].with_suffix(".crt").read_bytes())
    # Renewed by a person, and not within one tick of the file system's clock.
    os.utime(authorities, (time.time(), time.time() + 60))
    Session(access(tls, verify=str(authorities))).close()


def test_tls_where_none_is_spoken(service: Service) -> None:
    with pytest.raises(BmcBadTls, match="does not speak TLS there: set `scheme` to http"):
        Session(access(service, url=service.url.replace("http:", "https:")))
