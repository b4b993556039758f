"""A virtual rack: real firmware in QEMU on a wire of its own, for users to try metalbox and for the tests to prove it.

`Rack` (rack.py) is the whole of it: namespaces and a bridge (network.py), the site's own DHCP server and what may go
wrong with it (site_dhcp.py), the service (services.py) and machines (machines.py) as domains of a private libvirt
(hypervisor.py), with management processors if wanted (bmcs.py). What exists is written down before it is used
(record.py), so that it can be removed after a crash.
An idle machine in the agent costs about 0.4 % of one core, emulated as it is, and 450 to 530 MB of memory.
Nothing is sent outside of the rack's namespaces, and nothing of the computer's own libvirt or network is touched.
"""
