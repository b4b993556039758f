"""Where Redfish services differ from the book: one table, each row a match, what is different, and who says so.

The driver asks `behaviour_of` and obeys; it knows no vendor by name. A row without `changes` tells of something that
no request can mend; its text is shown to people beside what went wrong. New rows need a source that can be looked up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a Redfish service says it is; "" where it does not say."""

    vendor: str = ""  # the system's Manufacturer, or the root's Vendor
    model: str = ""  # the system's Model
    bmc: str = ""  # the manager's Model and the root's Product and Name, as one text
    firmware: str = ""  # the manager's FirmwareVersion


class SendMode(StrEnum):
    """When BootSourceOverrideMode is a part of a boot order."""

    ASKED = "asked"  # when a mode is asked for and another is set
    ALWAYS = "always"  # also when none is asked for: what is set is said again
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a service wants to be spoken to. The defaults are DSP0266 and the ComputerSystem schema."""

    send_mode: SendMode = SendMode.ASKED
    # Boot is written to, and read back from, the resource that @Redfish.Settings names (or `settings_path`).
    boot_in_settings: bool = False
    settings_path: str = ""  # appended to the system's path where @Redfish.Settings is missing
    needs_etag: bool = False  # PATCH without If-Match is refused; `*` where the service gives no ETag
    can_clear: bool = True  # an override can be taken back
    clear_target: str = ""  # what BootSourceOverrideTarget holds while Disabled is written; "" means None
    cd_targets: tuple[str, ...] = ("Cd", "CD/DVD", "UsbCd")  # the first that is offered is a (virtual) CD
    serial_field: str = "SerialNumber"  # which property of the system is the serial that SMBIOS shows
    light_off: str = "Off"  # what IndicatorLED is when nobody looks for the machine
    resets_not_used: frozenset[str] = frozenset()  # accepted or offered, and nothing happens


@dataclass(frozen=True, slots=True)
class Quirk:
    """One row. The patterns are searched without regard to case; "" fits everything."""

    name: str
    what: str  # a sentence for people
    source: str
    vendor: str = ""
    model: str = ""
    bmc: str = ""
    firmware: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, identity: Identity) -> bool:
        """Whether the row is about this service."""
        return all(
            re.search(pattern, value, re.IGNORECASE)
            for pattern, value in (
                (self.vendor, identity.vendor),
                (self.model, identity.model),
                (self.bmc, identity.bmc),
                (self.firmware, identity.firmware),
            )
        )


DELL, HPE, SUPERMICRO, LENOVO = r"^dell", r"^(hpe?|hewlett)\b", r"^super ?micro", r"^lenovo"

# Later rows win over earlier ones where both change the same thing.
QUIRKS: tuple[Quirk, ...] = (
    # -- Dell iDRAC
    Quirk(
        "dell-service-tag",
        "The serial that SMBIOS and the label show is the service tag, in SKU; SerialNumber is the mainboard's.",
        "corpus: R750 iDRAC9 6.00.30, R640, R6515 (SKU F54P1G3 is in the UUID 4c4c4544-0035-3410-8050-c6c04f314733)",
        vendor=DELL,
        changes={"serial_field": "SKU"},
    ),
    Quirk(
        "dell-light",
        "IndicatorLED is Lit when nobody looks for the machine; Blinking is the search light.",
        "corpus: R750, R640, R6515 all show Lit at rest",
        vendor=DELL,
        changes={"light_off": "Lit"},
    ),
    Quirk(
        "idrac9-override",
        "A boot override that was accepted and read back is now and then not obeyed: look at what the machine boots.",
        "https://github.com/ironcore-dev/metal-operator/issues/80",
        vendor=DELL,
        bmc=r"1[3-6]G",
    ),
    Quirk(
        "idrac8-mode",
        "Writing BootSourceOverrideMode gives HTTP 400 (SYS410) although the override is set: it is left out.",
        "https://github.com/ansible-collections/community.general/issues/5091",
        vendor=DELL,
        bmc=r"1[23]G",
        changes={"send_mode": SendMode.NEVER},
    ),
    Quirk(
        "idrac10-settings",
        "Boot is read-only in the system; it is written to the resource that @Redfish.Settings names.",
        "https://github.com/stmcginnis/gofish/pull/511 (R470), "
        "https://github.com/ansible-collections/community.general/issues/11297 (R570)",
        vendor=DELL,
        bmc=r"1[7-9]G|iDRAC ?10",
        changes={"boot_in_settings": True},
    ),
    # -- HPE iLO
    Quirk(
        "ilo-mode",
        "BootSourceOverrideMode cannot be written, a PATCH that holds it is refused: it is left out.",
        "https://github.com/ansible-collections/community.general/issues/3509",
        vendor=HPE,
        changes={"send_mode": SendMode.NEVER},
    ),
    Quirk(
        "ilo-clear",
        "Disabling an override is refused while its target is None: Pxe is named beside Disabled.",
        "https://github.com/ironcore-dev/metal-operator/pull/998",
        vendor=HPE,
        changes={"clear_target": "Pxe"},
    ),
    # -- Supermicro
    Quirk(
        "supermicro-mode",
        "The boot mode goes back to its default unless BootSourceOverrideMode is a part of every boot PATCH.",
        "https://github.com/DMTF/Redfishtool/pull/106; that Disabled wants it too: "
        "https://github.com/ansible-collections/community.general/issues/11542",
        vendor=SUPERMICRO,
        changes={"send_mode": SendMode.ALWAYS},
    ),
    Quirk(
        "supermicro-x10-mode",
        "X10 boards have no BootSourceOverrideMode and refuse it.",
        "https://github.com/ironcore-dev/metal-operator/issues/982 (X10SRM-TF); corpus: X10, BMC 4.0",
        vendor=SUPERMICRO,
        model=r"X10|^Super Server$",
        firmware=r"^[34]\.",
        changes={"send_mode": SendMode.NEVER},
    ),
    Quirk(
        "supermicro-cd",
        "Virtual media are a USB CD: Cd is offered and does not boot them.",
        "sushy 5.14 resources/system/system.py (X11, X12)",
        vendor=SUPERMICRO,
        changes={"cd_targets": ("UsbCd", "Cd", "CD/DVD")},
    ),
    Quirk(
        "supermicro-glued-resets",
        "Some firmware lists GracefulShutdownGracefulRestart as one reset type, a comma missing: both are known.",
        "corpus: bmclib smc_1.14.0_systems_1.json (SYS-510T, BIOS 2.0)",
        vendor=SUPERMICRO,
    ),
    Quirk(
        "supermicro-licence",
        "Much needs the licence SFT-OOB-LIC or SFT-DCMS-SINGLE; power and boot orders usually do not.",
        "https://github.com/fwupd/fwupd/pull/5128, https://github.com/bb-Ricardo/check_redfish/issues/74",
        vendor=SUPERMICRO,
    ),
    # -- Lenovo
    Quirk(
        "xcc-disk-always",
        "Hdd for every boot means the generic hard disk entry, which can loop past the installed system: use once.",
        "https://github.com/openstack/ironic/pull/14 (SR645 V3), bug 2053064",
        vendor=LENOVO,
    ),
    Quirk(
        "lenovo-amd-etag",
        "ThinkSystem with AMD processors (SR635, SR655) runs AMI's service: PATCH without If-Match is refused.",
        "https://github.com/stmcginnis/gofish/issues/171 (Ami.1.0.PreconditionHeaderMissing)",
        vendor=LENOVO,
        model=r"SR6[35]5(?! V3)",
        changes={"needs_etag": True},
    ),
    # -- AMI MegaRAC, under the names of those who ship it (ASRock Rack, Gigabyte, Tyan, ...)
    Quirk(
        "ami-future-state",
        "Boot is written to the future state, {system}/SD, with If-Match; the system itself answers "
        "OperationSupportedInFutureStateURI.",
        "https://github.com/DMTF/Redfish-Tacklebox/issues/144 (ASRock), issue 111; "
        "siderolabs/omni-infra-provider-bare-metal does the same",
        bmc=r"\bAMI\b|MegaRAC",
        changes={"boot_in_settings": True, "settings_path": "/SD", "needs_etag": True},
    ),
    # -- OpenBMC
    Quirk(
        "openbmc-no-boot",
        "Builds for POWER have no boot override at all: the properties are missing from Boot.",
        "https://github.com/ibm-openbmc/bmcweb/pull/209",
        bmc=r"OpenBmc",
    ),
    Quirk(
        "openbmc-60-seconds",
        "An override may be dropped when the machine does not begin to boot within 60 s: set it just before power on.",
        "https://github.com/openbmc/docs/blob/master/designs/bios-settings-flags.md",
        bmc=r"OpenBmc",
    ),
    # -- emulators
    Quirk(
        "sushy-tools",
        "Once stays for every boot, an override cannot be taken back, and reset types that it does not list are "
        "accepted and ignored.",
        "read in sushy-tools 2.2.0 emulator/main.py and measured",
        vendor=r"^Sushy Emulator$",
        changes={"can_clear": False, "resets_not_used": frozenset({"PowerCycle", "PushPowerButton"})},
    ),
    Quirk(
        "kubevirtbmc",
        "Once and Disabled are taken and Continuous is what is set.",
        "https://github.com/kubevirtbmc/kubevirtbmc/issues/165",
        vendor=r"KubeVirt",
        changes={"can_clear": False},
    ),
)


def quirks_of(identity: Identity) -> tuple[Quirk, ...]:
    """The rows about this service, in the table's order."""
    return tuple(row for row in QUIRKS if row.fits(identity))


def behaviour_of(identity: Identity) -> Behaviour:
    """How to speak to this service."""
    behaviour = Behaviour()
    for row in quirks_of(identity):
        behaviour = replace(behaviour, **row.changes)
    return behaviour
