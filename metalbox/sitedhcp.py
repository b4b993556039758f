"""What to write into the site's own DHCP server so that it sends machines to us (dnsmasq, ISC, Kea, Windows). PURE.

All four say the same: iPXE gets the first script, UEFI HTTP Boot a URL, BIOS and UEFI a boot file by TFTP. Each fills
the next server (siaddr), without which iPXE and shim find no server. The names are those of `dhcp/bootfile.py`.
"""

from __future__ import annotations

# Option 93 (RFC 4578, registry "Processor Architecture Types") and what that firmware is told to load.
BY_TFTP: tuple[tuple[str, tuple[int, ...], str], ...] = (
    ("bios", (0,), "undionly.kpxe"),
    ("efi32", (6,), "ipxe-i386.efi"),
    ("efi64", (7, 9), "snponly.efi"),
    ("arm64", (11,), "ipxe-arm64.efi"),
)
BY_HTTP: tuple[tuple[str, tuple[int, ...], str], ...] = (
    ("http64", (16,), "snponly.efi"),
    ("httparm", (19,), "ipxe-arm64.efi"),
)


def site_dhcp_lines(server_address: str, http_port: int) -> list[str]:
    """The lines for each kind of server, each under a heading that begins with `#`."""
    base = f"http://{server_address}:{http_port}"
    return [
        *_dnsmasq(server_address, base),
        *_isc(server_address, base),
        *_kea(server_address, base),
        *_windows(server_address, base),
    ]


def _dnsmasq(server: str, base: str) -> list[str]:
    lines = ["# dnsmasq: in /etc/dnsmasq.d/metalbox.conf, then restart dnsmasq"]
    lines += ["dhcp-match=set:ipxe,175", "dhcp-userclass=set:ipxe,iPXE"]
    for tag, arches, _ in (*BY_TFTP, *BY_HTTP):
        lines += [f"dhcp-match=set:{tag},option:client-arch,{arch}" for arch in arches]
    lines.append(f"dhcp-boot=tag:ipxe,{base}/ipxe/first.ipxe,,{server}")
    lines += [f"dhcp-boot=tag:{tag},tag:!ipxe,{file},,{server}" for tag, _, file in BY_TFTP]
    for tag, _, file in BY_HTTP:
        lines.append(f"dhcp-option-force=tag:{tag},tag:!ipxe,option:vendor-class,HTTPClient")
        lines.append(f"dhcp-boot=tag:{tag},tag:!ipxe,{base}/boot/{file},,{server}")
    return lines


def _isc(server: str, base: str) -> list[str]:
    lines = [
        "# ISC dhcpd: in /etc/dhcp/dhcpd.conf, outside of any subnet, then restart isc-dhcp-server",
        "option metalbox-arch code 93 = unsigned integer 16;",
        'class "metalbox" {',
        '  match if substring(option vendor-class-identifier, 0, 9) = "PXEClient"',
        '        or substring(option vendor-class-identifier, 0, 10) = "HTTPClient";',
        f"  next-server {server};",
        '  if exists user-class and substring(option user-class, 0, 4) = "iPXE" {',
        f'    filename "{base}/ipxe/first.ipxe";',
    ]
    for _, arches, file in BY_HTTP:
        lines += [
            f"  }} elsif {_isc_arches(arches)} {{",
            '    option vendor-class-identifier "HTTPClient";',
            f'    filename "{base}/boot/{file}";',
        ]
    for _, arches, file in BY_TFTP:
        lines += [f"  }} elsif {_isc_arches(arches)} {{", f'    filename "{file}";']
    return [*lines, "  }", "}"]


def _isc_arches(arches: tuple[int, ...]) -> str:
    return " or ".join(f"option metalbox-arch = 00:{arch:02x}" for arch in arches)


def _kea(server: str, base: str) -> list[str]:
    lines = [
        '# Kea: in "Dhcp4" of /etc/kea/kea-dhcp4.conf, then restart kea-dhcp4-server',
        '"client-classes": [',
        '  { "name": "metalbox-ipxe", "test": "substring(option[77].hex,0,4) == \'iPXE\'",',
        f'    "next-server": "{server}", "boot-file-name": "{base}/ipxe/first.ipxe" }},',
    ]
    for tag, arches, file in BY_HTTP:
        lines += [
            f'  {{ "name": "metalbox-{tag}", "test": "{_kea_arches(arches)}",',
            '    "option-data": [ { "name": "vendor-class-identifier", "data": "HTTPClient", "always-send": true } ],',
            f'    "next-server": "{server}", "boot-file-name": "{base}/boot/{file}" }},',
        ]
    for tag, arches, file in BY_TFTP:
        lines += [
            f'  {{ "name": "metalbox-{tag}", "test": "{_kea_arches(arches)}",',
            f'    "next-server": "{server}", "boot-file-name": "{file}" }},',
        ]
    lines[-1] = lines[-1].removesuffix(",")
    return [*lines, "]"]


def _kea_arches(arches: tuple[int, ...]) -> str:
    wanted = " or ".join(f"option[93].hex == 0x{arch:04x}" for arch in arches)
    return f"not member('metalbox-ipxe') and ({wanted})"


def _windows(server: str, base: str) -> list[str]:
    lines = [
        "# Windows DHCP: in PowerShell on that server, as administrator",
        'Add-DhcpServerv4Class -Name "iPXE" -Type User -Data "iPXE"',
        'Add-DhcpServerv4OptionDefinition -Name "metalbox vendor class" -OptionId 60 -Type String',
        'Add-DhcpServerv4Policy -Name "metalbox iPXE" -Condition OR -UserClass EQ,"iPXE"',
        f'Set-DhcpServerv4OptionValue -PolicyName "metalbox iPXE" -OptionId 66 -Value "{server}"',
        f'Set-DhcpServerv4OptionValue -PolicyName "metalbox iPXE" -OptionId 67 -Value "{base}/ipxe/first.ipxe"',
    ]
    for tag, arches, file in BY_TFTP:
        lines += _windows_policy(tag, "PXEClient", arches, server, file)
    for tag, arches, file in BY_HTTP:
        lines += _windows_policy(tag, "HTTPClient", arches, server, f"{base}/boot/{file}")
        lines.append(f'Set-DhcpServerv4OptionValue -PolicyName "metalbox {tag}" -OptionId 60 -Value "HTTPClient"')
    return lines


def _windows_policy(tag: str, client: str, arches: tuple[int, ...], server: str, file: str) -> list[str]:
    """Conditions of one policy are all joined by AND or all by OR: so one policy for each architecture."""
    lines = []
    for number, arch in enumerate(arches):
        name = f"metalbox {tag}" if number == 0 else f"metalbox {tag} {number + 1}"
        lines += [
            f'Add-DhcpServerv4Class -Name "{name}" -Type Vendor -Data "{client}:Arch:{arch:05d}"',
            f'Add-DhcpServerv4Policy -Name "{name}" -Condition AND -VendorClass EQ,"{name}*" -UserClass NE,"iPXE"',
            f'Set-DhcpServerv4OptionValue -PolicyName "{name}" -OptionId 66 -Value "{server}"',
            f'Set-DhcpServerv4OptionValue -PolicyName "{name}" -OptionId 67 -Value "{file}"',
        ]
    return lines
