"""metalbox finds machines on the wire, boots them, and remembers everything about them.

Read in this order: `machine.py` (the nouns), `lifecycle.py` (the grammar), `boot.py` (what a machine boots),
`dhcp/responder.py` (how firmware is answered) and `service.py` (how the parts are joined).
"""

__version__ = "0.1.0"
