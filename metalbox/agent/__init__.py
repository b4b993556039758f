"""The agent: runs from RAM on a machine being discovered, tells the server what the machine is, and waits for orders.

Standard library only, and nothing of the rest of metalbox: it is shipped alone in the image. Imports are kept light,
because a machine boots it with one cold CPU. `--print` shows the report of any Linux machine, without root or network.

Read in this order: `__main__.py` (how it starts), `conversation.py` (what it says to the server), `inventory.py` (who
collects what), then the collectors: `smbios.py`, `cpu.py`, `disks.py`, `health.py`, `nics.py`, `pci.py`, `bmc.py`,
`firmware.py`, `lldp.py`.
"""

VERSION = "0.1.0"
