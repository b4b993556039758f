"""`metalbox doctor`: is everything in place for a machine to boot? Asked the way a machine would ask.

The checks of the wire use foreign clients (scapy, tftpy), so that a mistake of ours cannot hide itself; they come with
`pip install metalbox[doctor]`. Nothing here is imported by the service.
"""
