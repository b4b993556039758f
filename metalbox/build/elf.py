"""What an ELF file asks for: shared libraries of a program, dependencies, aliases and firmware of a kernel module.

Reads bytes and returns values, for every architecture; nothing is executed, so an arm64 image can be made anywhere.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

PT_DYNAMIC = 2
PT_INTERP = 3
PT_LOAD = 1
DT_NEEDED = 1
DT_STRTAB = 5
DT_RPATH = 15
DT_RUNPATH = 29


@dataclass(frozen=True, slots=True)
class Dynamic:
    """The dynamic section: libraries by soname, extra search paths ($ORIGIN unexpanded), the program interpreter."""

    needed: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    interpreter: str = ""


def is_elf(data: bytes) -> bool:
    return data[:4] == b"\x7fELF"


def _layout(data: bytes) -> tuple[str, bool]:
    """Byte order for `struct`, and whether the file is 64-bit."""
    return ("<" if data[5] == 1 else ">"), data[4] == 2


def _segments(data: bytes) -> list[tuple[int, int, int, int]]:
    """(type, file offset, address, file size) of each program header."""
    order, wide = _layout(data)
    if wide:
        start, size, count = (*struct.unpack_from(order + "Q", data, 32), *struct.unpack_from(order + "HH", data, 54))
    else:
        start, size, count = (*struct.unpack_from(order + "I", data, 28), *struct.unpack_from(order + "HH", data, 42))
    rows = []
    for index in range(count):
        if wide:
            kind, _, offset, address, _, length = struct.unpack_from(order + "IIQQQQ", data, start + index * size)
        else:
            kind, offset, address, _, length = struct.unpack_from(order + "IIIII", data, start + index * size)
        rows.append((kind, offset, address, length))
    return rows


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()


def dynamic(data: bytes) -> Dynamic:
    """The dynamic section of a program or library; an empty one for static programs. ValueError when it is broken."""
    try:
        return _dynamic(data)
    except (struct.error, IndexError) as error:
        raise ValueError(f"not a readable ELF file: {error}") from None


def _dynamic(data: bytes) -> Dynamic:
    order, wide = _layout(data)
    segments = _segments(data)
    interpreter = next((_text(data, offset) for kind, offset, _, _ in segments if kind == PT_INTERP), "")
    found = next((row for row in segments if row[0] == PT_DYNAMIC), None)
    if found is None:
        return Dynamic(interpreter=interpreter)
    _, offset, _, length = found
    step = 16 if wide else 8
    rows = struct.iter_unpack(order + ("qQ" if wide else "iI"), data[offset : offset + length - length % step])
    entries = [(tag, value) for tag, value in rows if tag]
    strings = next(value for tag, value in entries if tag == DT_STRTAB)
    base = next(o + strings - a for kind, o, a, size in segments if kind == PT_LOAD and a <= strings < a + size)
    paths = [_text(data, base + value) for tag, value in entries if tag in (DT_RPATH, DT_RUNPATH)]
    return Dynamic(
        tuple(_text(data, base + value) for tag, value in entries if tag == DT_NEEDED),
        tuple(part for path in paths for part in path.split(":") if part),
        interpreter,
    )


def libraries(
    programs: Iterable[str], read: Callable[[str], bytes], find: Callable[[str, str, tuple[str, ...]], str | None]
) -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
    """All files that `programs` load, directly or not, without the programs; and what is missing, as (file, soname).

    `read(path)` gives a file's bytes; `find(soname, wanted by, extra search paths)` gives a library's path, or None.
    """
    found: set[str] = set()
    missing: set[tuple[str, str]] = set()
    queue = deque(programs)
    seen = set(queue)
    while queue:
        path = queue.popleft()
        data = read(path)
        if not is_elf(data):
            continue
        wanted = dynamic(data)
        origin = path.rpartition("/")[0]
        paths = tuple(part.replace("$ORIGIN", origin).replace("${ORIGIN}", origin) for part in wanted.paths)
        for soname in wanted.needed:
            library = find(soname, path, paths)
            if library is None:
                missing.add((path, soname))
                continue
            found.add(library)
            if library not in seen:
                seen.add(library)
                queue.append(library)
    return frozenset(found), frozenset(missing)


def modinfo(data: bytes) -> dict[str, tuple[str, ...]]:
    """The `.modinfo` section of a kernel module: name → values (`depends`, `alias`, `firmware`, ...)."""
    order, wide = _layout(data)
    if wide:
        start, size, count, names = (
            *struct.unpack_from(order + "Q", data, 40),
            *struct.unpack_from(order + "HHH", data, 58),
        )
        place, header = 24, order + "QQ"
    else:
        start, size, count, names = (
            *struct.unpack_from(order + "I", data, 32),
            *struct.unpack_from(order + "HHH", data, 46),
        )
        place, header = 16, order + "II"
    sections = [
        (
            struct.unpack_from(order + "I", data, start + n * size)[0],
            *struct.unpack_from(header, data, start + n * size + place),
        )
        for n in range(count)
    ]
    table = sections[names][1]
    values: dict[str, list[str]] = {}
    for name, offset, length in sections:
        if _text(data, table + name) == ".modinfo":
            for entry in data[offset : offset + length].split(b"\0"):
                key, equals, value = entry.decode(errors="replace").partition("=")
                if equals:
                    values.setdefault(key, []).append(value)
    return {key: tuple(entries) for key, entries in values.items()}
