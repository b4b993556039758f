from __future__ import annotations

import re
from dataclasses import fields

import pytest

from metalbox.power.quirks import QUIRKS, Behaviour, Identity, SendMode, behaviour_of, quirks_of

R750 = Identity("Dell Inc.", "PowerEdge R750", "Integrated Dell Remote Access Controller 15G Monolithic", "6.00.30.00")
R630 = Identity("Dell Inc.", "PowerEdge R630", "Integrated Dell Remote Access Controller 13G Monolithic", "2.75.75.75")
R470 = Identity("Dell Inc.", "PowerEdge R470", "Integrated Dell Remote Access Controller 17G Monolithic", "1.20.50.52")
DL380 = Identity("HPE", "ProLiant DL380a Gen11", "HPE RESTful Root Service iLO 6 Manager", "iLO 6 v1.66")
X10 = Identity("Supermicro", "Super Server", "Root Service ASPEED Manager", "4.0")
X12 = Identity("Supermicro", "SYS-510T-MR1-EI018", "Root Service ASPEED Manager", "01.13.04")
SR650 = Identity("Lenovo", "ThinkSystem SR650", "ThinkSystem Root Service Manager", "TEE142M-2.41")
SR655 = Identity("Lenovo", "ThinkSystem SR655", "AMI Redfish Server", "3.04.0")
ASROCK = Identity("ASRockRack", "WRX80 Creator R2.0", "AMI Redfish Server Root Service", "1.04.00")
OPENBMC = Identity("IBM", "9105-22A", "Root Service OpenBmc OpenBmc Manager bmc", "fw1060")
EMULATOR = Identity("Sushy Emulator", "", "Redvirt Service", "")
CONTOSO = Identity("Contoso", "3500", "Root Service Joo Janta 200", "1.45")


@pytest.mark.parametrize(
    ("identity", "names", "behaviour"),
    [
        (CONTOSO, [], Behaviour()),
        (Identity(), [], Behaviour()),
        (
            R750,
            ["dell-service-tag", "dell-light", "idrac9-override"],
            Behaviour(serial_field="SKU", light_off="Lit"),
        ),
        (
            R630,
            ["dell-service-tag", "dell-light", "idrac9-override", "idrac8-mode"],
            Behaviour(serial_field="SKU", light_off="Lit", send_mode=SendMode.NEVER),
        ),
        (
            R470,
            ["dell-service-tag", "dell-light", "idrac10-settings"],
            Behaviour(serial_field="SKU", light_off="Lit", boot_in_settings=True),
        ),
        (DL380, ["ilo-mode", "ilo-clear"], Behaviour(send_mode=SendMode.NEVER, clear_target="Pxe")),
        (
            X10,
            [
                "supermicro-mode",
                "supermicro-x10-mode",
                "supermicro-cd",
                "supermicro-glued-resets",
                "supermicro-licence",
            ],
            Behaviour(send_mode=SendMode.NEVER, cd_targets=("UsbCd", "Cd", "CD/DVD")),
        ),
        (
            X12,
            ["supermicro-mode", "supermicro-cd", "supermicro-glued-resets", "supermicro-licence"],
            Behaviour(send_mode=SendMode.ALWAYS, cd_targets=("UsbCd", "Cd", "CD/DVD")),
        ),
        (SR650, ["xcc-disk-always"], Behaviour()),
        (
            SR655,
            ["xcc-disk-always", "lenovo-amd-etag", "ami-future-state"],
            Behaviour(needs_etag=True, boot_in_settings=True, settings_path="/SD"),
        ),
        (
            ASROCK,
            ["ami-future-state"],
            Behaviour(needs_etag=True, boot_in_settings=True, settings_path="/SD"),
        ),
        (OPENBMC, ["openbmc-no-boot", "openbmc-60-seconds"], Behaviour()),
        (
            EMULATOR,
            ["sushy-tools"],
            Behaviour(
                can_clear=False,
                resets_not_used=frozenset({"PowerCycle", "PushPowerButton"}),
            ),
        ),
    ],
    ids=lambda value: value.model or value.vendor if isinstance(value, Identity) else "",
)
def test_who_gets_which_rows(identity: Identity, names: list[str], behaviour: Behaviour) -> None:
    assert [row.name for row in quirks_of(identity)] == names
    assert behaviour_of(identity) == behaviour


def test_every_row_can_be_looked_up_and_obeyed() -> None:
    known = {field.name for field in fields(Behaviour)}
    assert len({row.name for row in QUIRKS}) == len(QUIRKS)
    for row in QUIRKS:
        assert re.search(r"https://|corpus:|sushy", row.source), row.name
        assert row.what.endswith("."), row.name
        assert set(row.changes) <= known, row.name
        assert row.vendor or row.model or row.bmc, f"{row.name} would be about everybody"


def test_every_row_is_about_somebody() -> None:
    everybody = [R750, R630, R470, DL380, X10, X12, SR650, SR655, ASROCK, OPENBMC, EMULATOR]
    everybody.append(Identity("KubeVirt", "KubeVirt", "", ""))
    seen = {row.name for identity in everybody for row in quirks_of(identity)}
    assert seen == {row.name for row in QUIRKS}
