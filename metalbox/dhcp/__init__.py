"""DHCP for machines that boot: bytes to packets (`packet`), who has which address (`leases`), what to answer (`responder`).

All of it is pure except `server`, which owns the sockets.
"""
