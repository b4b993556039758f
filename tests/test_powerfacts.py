"""What `why` is told of a machine's power: BMCs without their secrets, the newest order, the last observation."""

from __future__ import annotations

from pathlib import Path

from metalbox import bmcaccounts, bmcs
from metalbox.bmcmatch import Source, Told
from metalbox.bmcrecords import BmcRecord
from metalbox.errors import BmcHung
from metalbox.evidence import PowerFacts, Trouble
from metalbox.machine import Mac, Machine
from metalbox.power import Asked, Device, Override, PowerState
from metalbox.power.orders import Note, Observation, Outcome, PowerOrder, Verb, Write
from metalbox.powerfacts import power_facts
from metalbox.secrets import Secret, Vault
from metalbox.store import Store, sqlite_url

SICK = Observation(PowerState.ON, 5.0, "redfish", "hung", "it does not answer", "timed out", 9.0)


def test_a_machine_of_which_nothing_is_known(tmp_path: Path) -> None:
    store = Store.open(sqlite_url(tmp_path / "metalbox.db"))
    assert power_facts(store, 7, Observation()) == PowerFacts()
    store.close()


def test_everything(tmp_path: Path) -> None:
    store, vault = Store.open(sqlite_url(tmp_path / "metalbox.db")), Vault.open(tmp_path)
    with store.transaction():
        for name in ("m1", "m2"):
            store.machines.add(Machine(id=0, name=name, state="discovered"))
        store.bmcs.add(BmcRecord(machine_id=1, address="192.0.2.51", mac=Mac("02:00:00:00:00:51"), last_seen=9.0))
        told = Told(
            Source.OPERATOR, address="192.0.2.50", drivers=("redfish",), vendor="HPE", mac=Mac("02:00:00:00:00:50")
        )
        secret = Secret("hunter2")
        learned = bmcaccounts.add(store, vault, told, 1.0, machine_id=1, user="root", password=secret)
        bmcs.failed(store, learned.bmc.id, BmcHung("it hangs"), 8.0)
        store.power_orders.insert(1, PowerOrder(Verb.OFF), 10.0)
        number = store.power_orders.insert(1, PowerOrder(Verb.ON, Override(Device.PXE)), 20.0)
        store.power_orders.insert(2, PowerOrder(Verb.OFF), 30.0)
        store.power_orders.mark_sent(number, [Write.ON])
    facts = power_facts(store, 1, SICK, waiting=(5, 1))
    assert [bmc.name for bmc in facts.bmcs] == ["192.0.2.50", "192.0.2.51"]
    bmc = facts.bmcs[0]
    assert (bmc.has_password, bmc.user, bmc.vendor, bmc.drivers) == (True, "root", "HPE", ("redfish",))
    assert (bmc.error_code, bmc.error_text, bmc.error_at) == ("hung", "it hangs", 8.0)
    assert "hunter2" not in repr(facts)
    assert facts.trouble == Trouble("hung", "it does not answer", "timed out", at=9.0)
    assert (facts.state, facts.read_at, facts.source) == ("on", 5.0, "redfish")
    assert facts.order is not None
    assert (facts.order.verb, facts.order.boot, facts.order.sent, facts.order.place) == ("on", "pxe, once", ("on",), 2)
    assert facts.order.finished_at is None

    asked = Asked("on", "Press the button.", PowerState.ON)
    warning = Note("not-obeyed", "lost", "none", "redfish", "boot_next", 21.0)
    outcome = Outcome(
        False, PowerState.OFF, "a text", "hung", "words", "redfish", (Write.ON,), (warning,), (warning,), asked
    )
    with store.transaction():
        store.power_orders.finish(number, outcome, 25.0)
    order = power_facts(store, 1, Observation(), waiting=(1,)).order
    assert order is not None
    assert (order.finished_at, order.done, order.state, order.code, order.place) == (25.0, False, "off", "hung", 0)
    assert (order.asked, order.expects, order.evidence) == ("Press the button.", "on", "words")
    lost = Trouble("not-obeyed", "lost", "none", "redfish", "boot_next", 21.0)
    assert order.warnings == order.attempts == (lost,)
    store.close()
