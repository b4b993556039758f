"""What a Redfish root says without a login, in the roots of real BMCs, and what is worth a look."""

from __future__ import annotations

import json
import tarfile
from contextlib import suppress
from dataclasses import replace

import pytest

from metalbox.errors import MalformedPacket
from metalbox.machine import Mac
from metalbox.power.found import Found, Root, parse_root
from tests.corpus import corpus
from tests.mutations import mutations

IDRAC = "Integrated Dell Remote Access Controller"
# The roots of the corpus; what they do not say is "".
ROOTS = {
    "bmclib-redfishwrapper/dell/serviceroot.json": Root(
        "Dell", IDRAC, "1.9.0", "", "FOOBAR", Mac.parse("d0:8e:79:bb:3e:ea")
    ),
    # Older than Redfish 1.6: no Vendor.
    "sushy-oem-dell/root.json": Root("Dell", IDRAC, "1.4.0", "", "GTS7DV2", Mac.parse("4c:d9:8f:20:73:84")),
    "redfish_ctl-hpe/_redfish_v1.json": Root(
        "HPE", "ProLiant DL380a Gen11 -- SIMULATED", "1.20.0", "724d47b7-f6ec-5b98-bb39-6a46562d65da"
    ),
    "bmclib-redfishwrapper/smc_1.9.0_serviceroot.json": Root(
        "Supermicro", "", "1.9.0", "00000000-0000-0000-0000-3cecefc8484f"
    ),
    "redfish_ctl-supermicro-x10/_redfish_v1.json": Root("", "", "1.0.1", "00000000-0000-0000-0000-ac1f6b18a241"),
    "bmclib-lenovo/v1/serviceroot.json": Root(
        "Lenovo", "ThinkSystem", "1.15.0", "92384634-2938-2342-8820-489239905423"
    ),
    "dmtf-mockup-server/public-rackmount1/index.json": Root("", "", "1.15.0", "92384634-2938-2342-8820-489239905423"),
    "sushy-json_samples/bare_minimum_root.json": Root("", "", "1.0.2", "92384634-2938-2342-8820-489239905423"),
}


@pytest.mark.parametrize("name", ROOTS)
def test_roots_of_real_bmcs(name: str) -> None:
    assert parse_root(corpus("redfish", *name.split("/")).read_bytes()) == ROOTS[name]


def test_the_root_of_a_dell_r750() -> None:
    with tarfile.open(corpus("redfish", "nvidia-bmc-mock-dell_poweredge_r750.tar.gz")) as archive:
        member = archive.extractfile("redfish/v1/index.json")
        assert member is not None
        root = parse_root(member.read())
    assert root == Root("Dell", IDRAC, "1.13.1", "", "F54P1G3", Mac.parse("b0:7b:25:d6:51:82"))


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'"x"', b"{}", b'{"Name": "Router"}', b"[" * 100_000, b"\xff", b'{"a":' + b"9" * 9999],
)
def test_what_is_no_root(body: bytes) -> None:
    with pytest.raises(MalformedPacket, match="what answers there is"):
        parse_root(body)


def test_values_of_the_wrong_kind_are_none_and_texts_are_clean() -> None:
    root = {
        "@odata.type": "#ServiceRoot.v1_5_0.ServiceRoot",
        "Vendor": ["x"],
        "Product": "B\x1b[2J\ud800\nMC" + "x" * 500,
        "UUID": 7,
        "Oem": {"Dell": {"ServiceTag": {}, "ManagerMACAddress": "ff:ff:ff:ff:ff:ff"}},
    }
    found = parse_root(json.dumps(root).encode())
    assert found == Root("Dell", ("B[2JMC" + "x" * 500)[:128])


def test_no_body_raises_anything_else() -> None:
    dell = {"ServiceTag": "GTS7DV2", "ManagerMACAddress": "4c:d9:8f:20:73:84"}
    root = {"RedfishVersion": "1.4.0", "Vendor": "Dell", "UUID": "9" * 32, "Oem": {"Dell": dell}}
    for data in mutations([json.dumps(root).encode(), b'{"@odata.type": "#ServiceRoot.v1_0_0", "Oem": null}']):
        with suppress(MalformedPacket):
            found = parse_root(data)
            assert all(text.isprintable() for text in (found.vendor, found.product, found.serial, found.version))


def test_hints() -> None:
    good = Found("192.0.2.9", redfish=True, ipmi=True, url="https://192.0.2.9/redfish/v1/", speaks_20=True)
    assert good.hints == ()
    bad = replace(good, url="http://192.0.2.9/redfish/v1/", speaks_15=True, authentications=("none", "md5"))
    bad = replace(bad, cipher_suites=(0, 3), is_anonymous=True, wants_kg=True)
    assert bad.hints == (
        "offers IPMI cipher suite 0, by which any password is taken",
        "offers IPMI 1.5 sessions without a password",
        "has an IPMI account without name and password",
        "wants a key Kg for IPMI besides the password",
        "answers Redfish without TLS",
    )
    assert replace(good, speaks_20=False, speaks_15=True).hints == ("speaks IPMI 1.5 only, which metalbox does not",)
