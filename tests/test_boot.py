"""The decision for every kind of asker, and every script as a whole."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalbox import boot
from metalbox.boot import BOOTS, Asking, Decision, Target, decide
from metalbox.config import Boot
from metalbox.lifecycle import State
from metalbox.machine import Mac, Machine
from metalbox.web.firmware import load_templates

MAC = Mac("52:54:00:ab:cd:ef")
UUID = "4c4c4544-0042-3510-8054-b7c04f333732"
TEMPLATES = load_templates(None)
BOTH = {"x86_64", "arm64"}
SERVER = "192.0.2.1:8080"

ASKED = {
    "mac": "52-54-00-ab-cd-ef",
    "uuid": UUID.upper(),
    "arch": "i386",
    "platform": "pcbios",
    "ip": "192.0.2.100",
    "loader": "ipxe-1.0.0+git",
    "serial": "SN 123",
    "asset": "AT42",
    "vendor": "ACME & Söhne",
    "product": "R1",
}


def machine(state: str = State.DISCOVERED, conflict: str = "") -> Machine:
    return Machine(1, "sn123", state, macs=(MAC,), conflict=conflict)


def test_a_machine_that_introduces_itself_well() -> None:
    assert Asking.parse(ASKED) == Asking(
        mac=MAC,
        uuid=UUID,
        serial="SN 123",
        asset="AT42",
        vendor="ACME & Söhne",
        product="R1",
        arch="i386",
        platform="bios",
        address="192.0.2.100",
        loader="ipxe-1.0.0+git",
    )


def test_a_machine_that_says_nothing_is_what_the_network_knows() -> None:
    assert Asking.parse({}) == Asking()
    assert Asking.parse({}, mac=MAC, address="192.0.2.7") == Asking(mac=MAC, address="192.0.2.7")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mac", "00-00-00-00-00-00"),
        ("mac", "ff:ff:ff:ff:ff:ff"),
        ("mac", "01:00:5e:00:00:01"),
        ("mac", "52:54:00:ab:cd:ef || shell"),
        ("uuid", "03000200-0400-0500-0006-000700080009"),
        ("uuid", "Not Settable"),
        ("uuid", "x\nshell"),
        ("serial", "To Be Filled By O.E.M."),
        ("serial", "\n"),
        ("asset", "Default string"),
        ("arch", "x86_64/../../etc"),
        ("platform", "${cwuri}"),
        ("ip", "0.0.0.0"),
        ("ip", "192.0.2.1 && shell"),
        ("unheard", "of"),
    ],
)
def test_what_is_no_answer_is_none(name: str, value: str) -> None:
    assert Asking.parse({name: value}) == Asking()


@pytest.mark.parametrize(
    ("arch", "platform", "agent"),
    [
        ("i386", "pcbios", "x86_64"),
        ("x86_64", "pcbios", "x86_64"),
        ("x86_64", "efi", "x86_64"),
        ("i386", "efi", ""),
        ("arm64", "efi", "arm64"),
        ("", "", "x86_64"),
        ("riscv64", "efi", "riscv64"),
    ],
)
def test_which_agent_runs_where(arch: str, platform: str, agent: str) -> None:
    assert Asking.parse({"arch": arch, "platform": platform}).agent_arch == agent


def test_the_policy_has_every_state() -> None:
    assert set(BOOTS) == set(State)


def test_who_boots_what() -> None:
    asking = Asking.parse(ASKED)
    inputs = {
        "mac": MAC,
        "uuid": UUID,
        "serial": "SN 123",
        "asset": "AT42",
        "vendor": "ACME & Söhne",
        "product": "R1",
        "arch": "i386",
        "platform": "bios",
        "address": "192.0.2.100",
        "loader": "ipxe-1.0.0+git",
    }
    assert decide(None, asking, BOTH) == Decision(
        Target.AGENT, "not in the inventory yet", {**inputs, "state": "unknown"}
    )
    known = {**inputs, "machine": "sn123"}
    assert decide(machine(), asking, BOTH) == Decision(
        Target.AGENT, "discovered, and nobody has decided on it", {**known, "state": "discovered"}
    )
    assert decide(machine(conflict="it has the same UUID as sn124"), asking, BOTH) == Decision(
        Target.AGENT,
        "in conflict with another machine: reports only",
        {**known, "state": "discovered", "conflict": "it has the same UUID as sn124"},
    )
    assert decide(machine("leased"), asking, BOTH) == Decision(
        Target.NOTHING, "in a state that this metalbox does not know", {**known, "state": "leased"}
    )


def test_the_state_alone_decides_what_a_known_machine_boots() -> None:
    expected = {
        State.UNKNOWN: Target.AGENT,
        State.DISCOVERED: Target.AGENT,
        State.REJECTED: Target.NOTHING,
        State.ERASING: Target.AGENT,
        State.AVAILABLE: Target.AGENT,
        State.DEPLOYED: Target.DISK,
        State.RETIRING: Target.AGENT,
        State.RETIRED: Target.NOTHING,
    }
    assert set(boot.BOOTS) == set(State)
    for state, target in expected.items():
        decision = decide(machine(state), Asking(arch="x86_64", platform="uefi"), BOTH)
        assert (decision.target, decision.inputs["state"]) == (target, state)


def test_without_an_agent_for_it_a_machine_goes_on_to_its_next_boot_device() -> None:
    decision = decide(None, Asking(), ())
    assert decision.target is Target.NOTHING
    assert decision.reason == "there is no agent for x86_64: run `metalbox agent build --arch x86_64`"
    decision = decide(None, Asking(arch="i386", platform="uefi"), BOTH)
    assert decision.target is Target.NOTHING
    assert decision.reason == "a 32-bit UEFI cannot start the agent"


FIRST = """\
#!ipxe
# The first script, the same for every machine: it introduces the machine and runs what it is then told to.
# `script` is relative to where this file came from, so that it works on every network of the server.
# Runs on iPXE of 2019 (BIOS and UEFI) and later; only commands that every build has. The free texts come last,
# because the iPXE of 2019 leaves an & in them as it is, and the first value of a name counts.
echo
echo metalbox: ${netX/mac} at ${netX/ip} asks what to boot (iPXE ${version}, ${platform})
set wait:int32 1
:ask
chain --autofree --replace script?mac=${netX/mac:hexhyp}&uuid=${uuid}&arch=${buildarch}&platform=${platform}\
&ip=${netX/ip}&loader=ipxe-${version:uristring}&serial=${serial:uristring}&asset=${asset:uristring}\
&vendor=${manufacturer:uristring}&product=${product:uristring} ||
echo metalbox: no usable answer from the server, trying again in ${wait} s
sleep ${wait}
inc wait ${wait}
iseq ${wait} 64 && set wait:int32 32 ||
goto ask
"""

AGENT = """\
#!ipxe
# Boots the agent from RAM. initrd=initrd must stand on the kernel's line: the UEFI build of Debian's iPXE needs it.
echo metalbox: booting the agent: not in the inventory yet
kernel http://192.0.2.1:8080/agent/x86_64/vmlinuz initrd=initrd metalbox.server=http://192.0.2.1:8080 \
metalbox.mac=52:54:00:ab:cd:ef metalbox.vlan=7 quiet console=tty0 console=ttyS0,115200 || goto failed
initrd http://192.0.2.1:8080/agent/x86_64/initrd || goto failed
boot || goto failed
:failed
echo metalbox: the agent could not be started, asking again in 10 s
imgfree
sleep 10
chain --autofree --replace http://192.0.2.1:8080/ipxe/first.ipxe ||
goto failed
"""

DISK = """\
#!ipxe
# Boots the machine's own disk. UEFI: a status of 0 opens the setup menu on Dell, Lenovo and OVMF, so leave with 1.
echo metalbox: booting the disk: it is in service
iseq ${platform} efi && exit 1 ||
# BIOS: at once from the first disk; when it does not boot, the BIOS goes on with its boot order.
sanboot --no-describe --drive 0x80 || exit 0
"""

NOTHING = """\
#!ipxe
# Nothing of ours: the firmware goes on with its next boot device. The status is 1 for UEFI, as in disk.ipxe.
echo metalbox: nothing to boot: rejected
sleep 3
iseq ${platform} efi && exit 1 || exit 0
"""

GRUB = """\
# For the Secure Boot chain: firmware, shim, GRUB, and this by TFTP. Debian's signed GRUB cannot speak HTTP.
echo "metalbox: booting the agent: not in the inventory yet"
if linux (tftp)/agent/x86_64/vmlinuz metalbox.server=http://${net_default_server}:8080 \
metalbox.mac=52:54:00:ab:cd:ef quiet console=tty0 console=ttyS0,115200; then
  if initrd (tftp)/agent/x86_64/initrd; then
    boot
  fi
fi
echo "metalbox: the agent could not be started, asking again in 10 s"
sleep 10
configfile (tftp)/grub/grub.cfg
"""

GRUB_NOTHING = """\
# For the Secure Boot chain: firmware, shim, GRUB, and this by TFTP. Debian's signed GRUB cannot speak HTTP.
echo "metalbox: nothing to boot: rejected"
sleep 3
exit 1
"""


def scripted(decision: Decision, asking: Asking = Asking(mac=MAC), settings: Boot = Boot()) -> str:  # noqa: B008
    return boot.script(TEMPLATES, decision, asking, SERVER, settings).decode()


def test_the_first_script() -> None:
    assert boot.first_script(TEMPLATES).decode() == FIRST


def test_the_agents_script() -> None:
    decision = decide(None, Asking(mac=MAC), BOTH)
    assert scripted(decision, settings=Boot(vlan=7)) == AGENT
    assert scripted(decision) == AGENT.replace(" metalbox.vlan=7", "")
    assert scripted(decision, Asking()) == AGENT.replace(" metalbox.vlan=7", "").replace(f" metalbox.mac={MAC}", "")
    arm = Asking(mac=MAC, arch="arm64", platform="uefi")
    assert scripted(decide(None, arm, BOTH), arm, Boot(vlan=7)) == AGENT.replace("x86_64", "arm64")


def test_the_scripts_of_disk_and_nothing() -> None:
    assert scripted(Decision(Target.DISK, "it is in service", {})) == DISK
    assert scripted(Decision(Target.NOTHING, "rejected", {})) == NOTHING


def test_grubs_script() -> None:
    asking = Asking(mac=MAC, arch="x86_64", platform="uefi")
    agent = boot.grub_script(TEMPLATES, decide(None, asking, BOTH), asking, 8080, Boot())
    assert agent.decode() == GRUB
    nothing = boot.grub_script(TEMPLATES, Decision(Target.NOTHING, "rejected", {}), asking, 8080, Boot())
    assert nothing.decode() == GRUB_NOTHING


def test_configured_arguments_stay_on_one_line() -> None:
    settings = Boot(kernel_arguments="console=ttyS0\nshell ")
    line = boot.kernel_arguments("http://192.0.2.1:8080", None, settings)
    assert line == "metalbox.server=http://192.0.2.1:8080 console=ttyS0 shell"


@given(st.dictionaries(st.sampled_from(sorted(ASKED)), st.text(max_size=300)))
def test_no_claim_reaches_a_script(claims: dict[str, str]) -> None:
    """Whatever a machine says, the script is one of few: only a MAC and a known architecture come from it."""
    asking = Asking.parse(claims)
    text = scripted(decide(None, asking, BOTH), asking)
    if asking.mac:
        text = text.replace(str(asking.mac), str(MAC))
    else:
        text = text.replace(
            "metalbox.server=http://192.0.2.1:8080", f"metalbox.server=http://{SERVER} metalbox.mac={MAC}"
        )
    plain = AGENT.replace(" metalbox.vlan=7", "")
    start = "\n".join(NOTHING.splitlines()[:2])
    assert text in (plain, plain.replace("x86_64", "arm64")) or text.startswith(start)
    assert set(text) <= set(string.printable)
