"""What to do about a sick BMC: something for each kind of trouble, commands that fit the BMC, never a password."""

from __future__ import annotations

import pytest

from metalbox.bmcadvice import CAUSES, advice_of
from metalbox.evidence import Bmc
from metalbox.power.desk import ERRORS

DELL = Bmc("192.0.2.50", "192.0.2.50", vendor="Dell Inc.", user="root", has_password=True)


def test_each_kind_of_trouble_has_its_cause_and_advice() -> None:
    assert set(CAUSES) == set(ERRORS)
    for code, cause in CAUSES.items():
        assert cause.doing and cause.text and cause.waiting_for
        lines = advice_of(code, DELL, "r1-01")
        assert "`metalbox bmc test 192.0.2.50` tries it again, by every driver" in lines
        assert any(line.startswith("by hand: curl") for line in lines)


def test_a_wrong_password_is_stored_anew() -> None:
    first, *rest = advice_of("wrong-password", DELL, "r1-01")
    assert first == "`metalbox bmc add 192.0.2.50 --user root --machine r1-01` asks for it"
    assert "by hand: curl -kv -u root https://192.0.2.50/redfish/v1/Systems" in rest
    assert "by hand: ipmitool -I lanplus -H 192.0.2.50 -U root -a chassis power status" in rest


@pytest.mark.parametrize(
    ("vendor", "name"),
    [
        ("Dell Inc.", "iDRAC Enterprise"),
        ("HPE", "iLO Advanced"),
        ("Supermicro", "SFT-OOB-LIC"),
        ("Lenovo", "XClarity Controller Enterprise"),
        ("Contoso", "the vendor knows its name"),
    ],
)
def test_licences_by_vendor(vendor: str, name: str) -> None:
    bmc = Bmc("b", "192.0.2.50", vendor=vendor)
    assert any(name in line for line in advice_of("licence", bmc, "m"))


def test_commands_fit_the_driver_the_port_and_the_address() -> None:
    simulated = Bmc("::1", "::1", port=8443, drivers=("redfish",))
    assert advice_of("unreachable", simulated, "m")[-1] == "by hand: curl -kv https://[::1]:8443/redfish/v1/"
    forwarded = Bmc("h", "h", port=9623, drivers=("ipmi",), user="u")
    assert advice_of("hung", forwarded, "m")[-1].endswith(
        "ipmitool -I lanplus -H h -p 9623 -U u -a chassis power status"
    )
    assert advice_of("hung", Bmc("02:00:00:00:00:01"), "m")[-1].startswith("`metalbox bmc test 02:00:00:00:00:01`")
    assert advice_of("hung", None, "m") == CAUSES["hung"].advice
