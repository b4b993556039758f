"""What a rack needs of the computer, and the sentence that says what is missing and how to get it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from shutil import which

from metalbox.errors import StartError
from metalbox.lab.domains import OVMF, QEMU

# Program or file -> Debian's package. Programs are looked for in sbin too, which is not in every root's PATH.
ALWAYS = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "sysctl": "procps",
}
MACHINES = {
    str(QEMU): "qemu-system-x86",
    "libvirtd": "libvirt-daemon-system",
    "virtlogd": "libvirt-daemon-system",
    "virsh": "libvirt-clients",
    "/var/cache/libvirt": "libvirt-daemon-system",
    "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so": "libvirt-daemon-driver-qemu",
    "/usr/lib/ipxe/qemu/pxe-virtio.rom": "ipxe-qemu",
    f"{OVMF}/OVMF_CODE_4M.fd": "ovmf",
}
DNSMASQ = {"dnsmasq": "dnsmasq-base"}
RELAY = {"dhcrelay": "isc-dhcp-relay"}
FAULTS = {"nft": "nftables"}
IPMI = {"ipmi_sim": "openipmi"}
# libvirt's binding is built for Debian's own Python.
REDFISH = {
    "/usr/lib/python3/dist-packages/libvirt.py": "python3-libvirt",
    "openssl": "openssl",
    "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_storage.so": "libvirt-daemon-driver-storage",
}
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def missing(needs: Mapping[str, str]) -> list[str]:
    """The packages of those programs and files that are not there."""
    path = os.environ.get("PATH", "/usr/bin:/bin") + os.pathsep + SBIN
    lost = (
        package
        for name, package in needs.items()
        if not (Path(name).exists() if name.startswith("/") else which(name, path=path))
    )
    return sorted(set(lost))


def reason(needs: Iterable[Mapping[str, str]]) -> str:
    """Why no rack can stand here, as a sentence; "" when it can."""
    if os.geteuid() != 0:
        return "the lab makes network namespaces and virtual machines and must be run as root: use sudo"
    packages = missing({name: package for part in needs for name, package in part.items()})
    if packages:
        return f"the lab needs packages: run `apt-get install --no-install-recommends {' '.join(packages)}`"
    return ""


def check(*needs: Mapping[str, str]) -> None:
    """Raise StartError when something is missing; put sbin into our PATH, where these programs are."""
    sentence = reason(needs)
    if sentence:
        raise StartError(sentence)
    folders = os.environ.get("PATH", "/usr/bin:/bin").split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join([*folders, *(f for f in SBIN.split(os.pathsep) if f not in folders)])
