"""DHCP for machines that boot: packets (`packet`), who has which address (`leases`), what to answer (`responder`).

All of it is pure except `server`, which owns the sockets.
"""
