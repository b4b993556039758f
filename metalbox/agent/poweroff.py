"""Switches the machine off from inside, where no BMC can: the order's end is told first, then the kernel is asked."""

from __future__ import annotations

import os
import threading
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from metalbox.agent.errands import Errand

TRIGGER = Path("/proc/sysrq-trigger")
# The server must have been told by then that it is done; nobody will be here to say it a second time.
SECONDS = 5.0


def work(errand: Errand) -> dict[str, Any]:
    """Switch off in a moment."""
    errand.claim()
    if not os.access(TRIGGER, os.W_OK):
        return {"error": f"{TRIGGER} cannot be written: this kernel takes no such order"}
    errand.say("the machine is switched off")
    timer = threading.Timer(SECONDS, switch_off)
    timer.daemon = True
    timer.start()
    return {"done": True}


def switch_off(trigger: Path = TRIGGER) -> None:
    """Write out what is in memory, then ask the kernel (admin-guide/sysrq: s, o)."""
    os.sync()
    trigger.write_text("o")
