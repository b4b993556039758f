"""The peers' configurations: each as quick as its own manual lets it be, and keeping what it promises on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bench.beside.servers import POOL, Plan, Recipe
from bench.beside.wire import NETMASK, SERVER, SUBNET

HTTP_PORT = 8080
# isc-dhcpd becomes slower with the size of its pool: this one is its better figure (12,288 addresses).
SMALL_POOL = ("10.64.1.0", "10.64.48.255")
SMALL_POOL_SIZE = 12_000
# What metalbox, Kea and dnsmasq have (253,179 addresses) brings it to one exchange a second; this is half of it.
LARGE_POOL = ("10.64.1.0", "10.65.255.255")
ISC_LARGE = "isc-dhcpd, 131k pool"


def kea(program: str, *, threads: int, sockets: str = "udp") -> Recipe:
    """kea-dhcp4 with its lease file and without a line of log for each lease, which it writes as it is shipped.

    threads 0 is single-threaded. sockets: "udp", which Kea's manual advises where all requests are relayed, or "raw".
    """

    def recipe(folder: Path) -> Plan:
        document = {
            "Dhcp4": {
                "interfaces-config": {"interfaces": ["eth0"], "dhcp-socket-type": sockets},
                "lease-database": {
                    "type": "memfile", "persist": True, "name": str(folder / "leases.csv"), "lfc-interval": 0
                },
                "multi-threading": {
                    "enable-multi-threading": threads > 0, "thread-pool-size": threads, "packet-queue-size": 64
                },
                "valid-lifetime": 3600,
                "subnet4": [
                    {"id": 1, "subnet": SUBNET, "pools": [{"pool": f"{POOL[0]} - {POOL[1]}"}],
                     "option-data": [{"name": name, "data": SERVER} for name in ("routers", "domain-name-servers")]}
                ],
                "loggers": [
                    {"name": "kea-dhcp4", "severity": "WARN", "output_options": [{"output": str(folder / "kea.log")}]}
                ],
            }
        }  # fmt: skip
        config = folder / "kea.json"
        config.write_text(json.dumps(document))
        name = "kea-mt" if threads else "kea-st"
        home = {"KEA_PIDFILE_DIR": str(folder), "KEA_LOCKFILE_DIR": str(folder)}
        return Plan(name, ((program, "-c", str(config)),), home)

    return recipe


def dnsmasq_dhcp(program: str) -> Recipe:
    """dnsmasq with its lease file."""

    def recipe(folder: Path) -> Plan:
        config = folder / "dnsmasq.conf"
        config.write_text(
            f"port=0\ninterface=eth0\nbind-interfaces\nuser=root\nno-ping\nquiet-dhcp\ndhcp-lease-max=1000000\n"
            f"dhcp-range={POOL[0]},{POOL[1]},{NETMASK},1h\ndhcp-option=option:router,{SERVER}\n"
            f"dhcp-leasefile={folder}/leases\npid-file={folder}/pid\n"
        )
        return Plan("dnsmasq", ((program, "-k", "-C", str(config), "--log-facility=-"),))

    return recipe


def isc_dhcpd(program: str, pool: tuple[str, str] = SMALL_POOL, name: str = "isc-dhcpd") -> Recipe:
    """isc-dhcpd, which syncs its lease file for each ACK."""

    def recipe(folder: Path) -> Plan:
        config, leases = folder / "dhcpd.conf", folder / "dhcpd.leases"
        leases.touch()
        network = SUBNET.partition("/")[0]
        config.write_text(
            "authoritative;\nping-check false;\ndefault-lease-time 3600;\nmax-lease-time 3600;\n"
            f"subnet {network} netmask {NETMASK} {{\n  range {pool[0]} {pool[1]};\n"
            f"  option routers {SERVER};\n  option domain-name-servers {SERVER};\n}}\n"
        )
        command = (program, "-4", "-f", "-q", "-user", "root", "-group", "root", "-cf", str(config), "-lf", str(leases))
        return Plan(name, ((*command, "-pf", str(folder / "pid"), "eth0"),))

    return recipe


def tftpd_hpa(program: str, files: Path) -> Recipe:
    """in.tftpd, a process for each transfer."""
    command = (program, "-L", "-4", "-a", f"{SERVER}:69", "-u", "root", "-s", str(files))
    return lambda folder: Plan("tftpd-hpa", (command,))


def atftpd(program: str, files: Path) -> Recipe:
    """atftpd, a thread for each transfer, and the only one here that knows windowsize."""

    def recipe(folder: Path) -> Plan:
        limits = ("--maxthread", "2000", "--retry-timeout", "1", "--verbose=0", "--logfile", str(folder / "atftpd.log"))
        command = (program, "--daemon", "--no-fork", "--user", "root.root", "--group", "root", *limits)
        return Plan("atftpd", ((*command, "--bind-address", SERVER, str(files)),))

    return recipe


def dnsmasq_tftp(program: str, files: Path) -> Recipe:
    """dnsmasq as TFTP server."""

    def recipe(folder: Path) -> Plan:
        config = folder / "dnsmasq.conf"
        config.write_text(
            f"port=0\ninterface=eth0\nbind-interfaces\nuser=root\nenable-tftp\ntftp-root={files}\ntftp-max=2000\n"
            f"quiet-tftp\npid-file={folder}/pid\n"
        )
        return Plan("dnsmasq", ((program, "-k", "-C", str(config), "--log-facility=-"),))

    return recipe


def nginx_configuration(folder: Path, files: Path) -> str:
    """Two workers, sendfile, an access log. Agents' reports are answered 200 and thrown away."""
    places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"  {kind}_temp_path {folder}/{kind};\n" for kind in places)
    return (
        f"daemon off;\nuser root;\nworker_processes auto;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n"
        "worker_rlimit_nofile 16384;\nevents { worker_connections 8192; }\nhttp {\n"
        f"  access_log {folder}/access.log;\n  sendfile on;\n  tcp_nopush on;\n  client_max_body_size 4m;\n"
        # Else it hangs up after 1000 requests.
        f"  keepalive_requests 100000000;\n{temporary}"
        f"  server {{ listen {SERVER}:{HTTP_PORT} backlog=4096; root {files};\n"
        "    location /agent/v1/ { return 200 '{}'; }\n  }\n}\n"
    )


def nginx(program: str, files: Path) -> Recipe:
    """nginx on static files."""

    def recipe(folder: Path) -> Plan:
        config = folder / "nginx.conf"
        config.write_text(nginx_configuration(folder, files))
        return Plan("nginx", ((program, "-e", f"{folder}/error.log", "-c", str(config)),))

    return recipe


def dnsmasq_and_nginx(programs: Mapping[str, str], files: Path) -> Recipe:
    """What the storm is compared with: dnsmasq for DHCP and TFTP, nginx for the rest, on the same files.

    `files` holds snponly.efi, first.ipxe and all paths that machines ask for.
    """

    def recipe(folder: Path) -> Plan:
        config, web = folder / "dnsmasq.conf", folder / "nginx.conf"
        config.write_text(
            f"port=0\ninterface=eth0\nbind-interfaces\nuser=root\nno-ping\nquiet-dhcp\nquiet-tftp\n"
            f"dhcp-lease-max=1000000\ndhcp-range={POOL[0]},{POOL[1]},{NETMASK},1h\ndhcp-option=option:router,{SERVER}\n"
            f"dhcp-leasefile={folder}/leases\npid-file={folder}/pid\nenable-tftp\ntftp-root={files}\ntftp-max=5000\n"
            "dhcp-option=tag:ipxe,encap:175,176,1b\ndhcp-match=set:ipxe,175\ndhcp-userclass=set:ipxe,iPXE\n"
            f"dhcp-boot=tag:ipxe,http://{SERVER}:{HTTP_PORT}/ipxe/first.ipxe\ndhcp-boot=tag:!ipxe,snponly.efi\n"
        )
        web.write_text(nginx_configuration(folder, files))
        return Plan(
            "dnsmasq+nginx",
            (
                (programs["dnsmasq"], "-k", "-C", str(config), "--log-facility=-"),
                (programs["nginx"], "-e", f"{folder}/error.log", "-c", str(web)),
            ),
        )

    return recipe
