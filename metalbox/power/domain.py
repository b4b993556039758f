"""The definition of a libvirt domain, as far as power goes: from what it boots, and who it is. Text in, text out.

libvirt knows two ways to say the order: <boot dev='network'/> below <os>, or <boot order='1'/> at each device; never
both. An override puts one kind of device before the others in whichever way the domain has. What was there before, and
whether the override is meant once, stands in the domain's <metadata>, where libvirt keeps it and anyone can read it.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping

from metalbox.errors import BmcGarbage, BmcNotSupported, BmcRefused, InvalidValue
from metalbox.machine import Mac
from metalbox.power import BmcInventory, Device, Mode, Override

NAMESPACE = "urn:metalbox:power:1"
QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
# What libvirt calls them below <os>.
OS_NAMES: Mapping[Device, str] = {Device.PXE: "network", Device.DISK: "hd", Device.CDROM: "cdrom"}
MARK = f"{{{NAMESPACE}}}override"

ET.register_namespace("metalbox", NAMESPACE)
ET.register_namespace("qemu", QEMU)


class Domain:
    """One parsed definition; `text()` gives it back with what was changed."""

    def __init__(self, text: str) -> None:
        """Raises BmcGarbage for what is no domain."""
        try:
            self.root = ET.fromstring(text)
        except ET.ParseError as error:
            raise BmcGarbage(f"libvirt's definition of the domain is no XML: {error}", evidence=text[:200]) from None
        if self.root.tag != "domain":
            raise BmcGarbage(f"libvirt gave <{self.root.tag}> where a domain was expected", evidence=text[:200])

    @property
    def name(self) -> str:
        """What libvirt calls it."""
        return self.root.findtext("name", "")

    @property
    def mode(self) -> Mode:
        """The firmware it has; libvirt cannot change it for one boot."""
        loader, os = self.root.find("os/loader"), self.root.find("os")
        is_uefi = loader is not None and loader.get("type") == "pflash"
        return Mode.UEFI if is_uefi or (os is not None and os.get("firmware") == "efi") else Mode.BIOS

    def text(self) -> str:
        """The definition, to be given to libvirt."""
        return ET.tostring(self.root, encoding="unicode")

    # -- the override --------------------------------------------------------------------------------------------

    @property
    def override(self) -> Override:
        """What is set; no override where the order is the owner's own."""
        mark = self.root.find(f"metadata/{MARK}")
        if mark is None:
            return Override()
        try:
            return Override(Device(mark.get("device", "")), self.mode, mark.get("once") == "yes")
        except ValueError:
            raise BmcGarbage(f"the metadata of {self.name} names the device {mark.get('device')!r}") from None

    def set_override(self, device: Device, mode: Mode, once: bool) -> None:
        """Put a kind of device first. Raises BmcNotSupported for what libvirt has no word for, BmcRefused."""
        if mode not in (Mode.KEEP, self.mode):
            raise BmcNotSupported(f"{self.name} has {self.mode} firmware, and libvirt cannot start it with {mode}")
        if device is Device.NONE:
            self.clear_override()
            return
        if device not in OS_NAMES:
            raise BmcNotSupported(f"libvirt has no boot device {device}: it knows {', '.join(OS_NAMES)}")
        self._refuse_without(device)
        self.clear_override()
        before = self._orders()
        if before:
            self._write_orders(self._reordered(device, before))
            saved = " ".join(f"{key}={order}" for key, order in before.items())
        else:
            names = self._os_names()
            first = OS_NAMES[device]
            self._write_os_names([first, *(name for name in names if name != first)])
            saved = " ".join(names)
        metadata = self.root.find("metadata")
        if metadata is None:
            metadata = ET.SubElement(self.root, "metadata")
        ET.SubElement(metadata, MARK, {"device": device, "once": "yes" if once else "no", "before": saved})

    def clear_override(self) -> None:
        """Give the owner's own order back; nothing happens without an override."""
        metadata = self.root.find("metadata")
        mark = metadata.find(MARK) if metadata is not None else None
        if metadata is None or mark is None:
            return
        words = mark.get("before", "").split()
        if any("=" in word for word in words):
            self._write_orders({key: int(order) for key, _, order in (word.rpartition("=") for word in words)})
        else:
            self._write_os_names(words)
        metadata.remove(mark)
        if not len(metadata):
            self.root.remove(metadata)

    def boot_indexes(self, live: Domain) -> dict[str, int]:
        """QEMU's bootindex by alias of each device that can boot in the running `live`, as this definition wants it.

        -1 is: not from this one. With <boot dev> libvirt numbers the first device of each kind only.
        """
        aliases = {key: alias.get("name", "") for key, element in live._devices() for alias in element.findall("alias")}
        orders = self._orders()
        if not orders:
            for order, name in enumerate(self._os_names(), 1):
                of_kind = [
                    key for key, element in self._devices() if OS_NAMES.get(_kind(element) or Device.NONE) == name
                ]
                orders |= dict.fromkeys(of_kind[:1], order)
        return {alias: orders.get(key, -1) for key, alias in aliases.items() if alias}

    # -- who it is -----------------------------------------------------------------------------------------------

    def inventory(self) -> BmcInventory:
        """Who the machine is to its guest."""
        entries = {
            entry.get("name", ""): (entry.text or "").strip() for entry in self.root.findall("sysinfo/system/entry")
        }
        # A UUID by QEMU's own command line hides libvirt's from the guest.
        uuid = entries.get("uuid") or self.root.findtext("uuid", "").strip()
        for argument in self._qemu_arguments():
            if match := re.match(r"type=1,(?:.*,)?uuid=([^,]+)", argument):
                uuid = match[1]
        return BmcInventory(
            vendor=entries.get("manufacturer", ""),
            model=entries.get("product", ""),
            serial=entries.get("serial", ""),
            uuid=uuid.lower(),
            macs=tuple(self._macs()),
            firmware="libvirt",
        )

    def _macs(self) -> Iterator[Mac]:
        for element in self.root.findall("devices/interface/mac"):
            try:
                yield Mac.parse(element.get("address", ""))
            except InvalidValue as error:
                raise BmcGarbage(f"{self.name}: {error}") from None

    # -- the order -----------------------------------------------------------------------------------------------

    def _devices(self) -> Iterator[tuple[str, ET.Element]]:
        """Everything that libvirt can boot from, each with a key that stays when others come and go."""
        counts: dict[str, int] = {}
        for element in self.root.findall("devices/*"):
            if element.tag not in ("disk", "interface", "hostdev", "redirdev"):
                continue
            place = counts.setdefault(element.tag, 0)
            counts[element.tag] += 1
            target, mac = element.find("target"), element.find("mac")
            if element.tag == "disk" and target is not None:
                yield target.get("dev", ""), element
            elif element.tag == "interface" and mac is not None:
                yield mac.get("address", ""), element
            else:
                yield f"{element.tag}{place}", element

    def _orders(self) -> dict[str, int]:
        found = {}
        for key, element in self._devices():
            boot = element.find("boot")
            if boot is not None:
                found[key] = int(boot.get("order", "0"))
        return found

    def _write_orders(self, orders: Mapping[str, int]) -> None:
        for key, element in self._devices():
            for boot in element.findall("boot"):
                element.remove(boot)
            if key in orders:
                ET.SubElement(element, "boot", {"order": str(orders[key])})

    def _reordered(self, device: Device, before: Mapping[str, int]) -> dict[str, int]:
        """The same devices with those of one kind first. libvirt starts QEMU with strict=on: what has no number is not
        tried at all, so the others keep theirs, further behind.
        """
        kinds = {key: _kind(element) for key, element in self._devices()}
        wanted = [key for key in sorted(before, key=before.__getitem__) if kinds.get(key) is device]
        wanted = wanted or [key for key, kind in kinds.items() if kind is device][:1]
        others = [key for key in sorted(before, key=before.__getitem__) if key not in wanted]
        taken = self._taken_indexes()
        if device is not Device.DISK and taken and len(wanted) >= min(taken):
            raise BmcRefused(
                f"{self.name} cannot start from {device} first: the command line in its definition gives bootindex "
                f"{min(taken)} to a disk of its own"
            )
        orders: dict[str, int] = {}
        number = 0
        for key in wanted + others:
            # Disks of the command line count as disks: the other kinds come after them.
            if device is Device.DISK and key in others:
                number = max(number, *taken, 0)
            number += 1
            while number in taken:
                number += 1
            orders[key] = number
        return orders

    def _refuse_without(self, device: Device) -> None:
        if any(_kind(element) is device for _, element in self._devices()):
            return
        if device is Device.DISK and self._taken_indexes() and self._orders():
            return
        raise BmcRefused(f"{self.name} cannot start from {device}: its definition has no such device")

    def _taken_indexes(self) -> set[int]:
        """The boot indexes of devices on QEMU's own command line, which libvirt leaves alone."""
        return {int(number) for text in self._qemu_arguments() for number in re.findall(r"\bbootindex=(\d+)", text)}

    def _qemu_arguments(self) -> list[str]:
        return [element.get("value", "") for element in self.root.iter(f"{{{QEMU}}}arg")]

    def _os_names(self) -> list[str]:
        return [boot.get("dev", "") for boot in self.root.findall("os/boot")]

    def _write_os_names(self, names: list[str]) -> None:
        os = self.root.find("os")
        if os is None:
            raise BmcGarbage(f"the definition of {self.name} has no <os>")
        for boot in os.findall("boot"):
            os.remove(boot)
        # Where libvirt itself writes them: behind the type, the loader and their like.
        place = sum(1 for element in os if element.tag in ("type", "firmware", "loader", "nvram"))
        for name in reversed(names):
            os.insert(place, ET.Element("boot", {"dev": name}))


def _kind(element: ET.Element) -> Device | None:
    if element.tag == "interface":
        return Device.PXE
    if element.tag == "disk":
        return {"disk": Device.DISK, "lun": Device.DISK, "cdrom": Device.CDROM}.get(element.get("device", "disk"))
    return None
