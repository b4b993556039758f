"""Where is read, what is compared, which signatures are known."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from metalbox.agent import verify
from tests.agent.drives import MIB, Drive, SimulatedDevice


@pytest.mark.parametrize("size", [512, 4096, MIB, 2 * MIB + 512, 3 * MIB, 100 * MIB + 512, 8 << 40])
def test_areas_lie_inside_and_cover_both_ends(size: int) -> None:
    found = verify.areas("ab", "0", size, 256, [(MIB, 5 * MIB)])
    assert all(area.offset >= 0 and area.offset + area.length <= size for area in found)
    assert all(area.offset % 512 == 0 and area.length % 512 == 0 and area.length <= MIB for area in found)
    assert found[0].offset == 0 and max(area.offset + area.length for area in found) == size
    assert len({area.offset for area in found}) == len(found)


def test_samples_come_from_the_seed_and_are_spread() -> None:
    size = 1 << 40
    one, again, other = (
        [area.offset for area in verify.areas(seed, "0", size, 512) if area.region == "random"]
        for seed in ("a", "a", "b")
    )
    assert one == again != other and len(one) == 512
    assert all(sum(size * part // 8 <= at < size * (part + 1) // 8 for at in one) == 64 for part in range(8))


def device(size: int = 8 * MIB) -> tuple[SimulatedDevice, Drive]:
    drive = Drive("vda", "S1", size=size)
    drive.medium[:] = bytes(size)
    return SimulatedDevice(drive, True), drive


@pytest.mark.parametrize(
    ("at", "magic", "name"),
    [
        (512, b"EFI PART", "GPT"),
        (8 * MIB - 512, b"EFI PART", "GPT"),
        (4096, b"\xfc\x4e\x2b\xa9", "md 1.2"),
        (8 * MIB - 65536, b"\xfc\x4e\x2b\xa9", "md 0.90"),
        (8 * MIB - 8192, b"\xfc\x4e\x2b\xa9", "md 1.0"),
        (512, b"LABELONE", "LVM"),
        (MIB + 512, b"LABELONE", "LVM"),
        (0, b"LUKS\xba\xbe", "LUKS"),
        (65600, b"_BHRfS_M", "btrfs"),
        (510, b"\x55\xaa", "MBR"),
        (1080, b"\x53\xef\x01\x00", "ext"),
        (MIB, b"XFSB", "XFS"),
        (4086, b"SWAPSPACE2", "swap"),
    ],
)
def test_signatures_are_found(at: int, magic: bytes, name: str) -> None:
    opened, drive = device()
    assert verify.signatures(opened, drive.size, [MIB]) == []
    drive.medium[at : at + len(magic)] = magic
    found = verify.signatures(opened, drive.size, [MIB])
    assert found and found[0].startswith(f"{name} at ")


def test_noise_has_no_signature() -> None:
    opened, drive = device()
    for seed in range(50):
        drive.medium[:] = random.Random(seed).randbytes(drive.size)
        assert verify.signatures(opened, drive.size, [MIB]) == []


def test_one_block_that_stays_is_counted() -> None:
    opened, drive = device()
    drive.medium[:] = random.Random(1).randbytes(drive.size)
    places = verify.areas("ab", "0", drive.size, 32)
    before = verify.look(opened, places, lambda _: None)
    kept = drive.medium[places[3].offset : places[3].offset + 512]
    drive.medium[:] = random.Random(2).randbytes(drive.size)
    drive.medium[places[3].offset : places[3].offset + 512] = kept
    covering = sum(area.offset <= places[3].offset < area.offset + area.length for area in places)
    assert before.unchanged(verify.look(opened, places, lambda _: None)) == covering > 0


def test_bytes_that_are_not_zero_are_shown_where_they_are() -> None:
    opened, drive = device()
    drive.medium[1000] = 7
    look = verify.look(opened, verify.areas("ab", "0", drive.size, 16), lambda _: None)
    assert look.nonzero == [{"offset": 1000, "expected": "00", "found": "07" + "00" * 15}]
    whole = verify.Whole(drive.size).read(opened, lambda _: None)
    assert whole.nonzero[0]["offset"] == 512 and len(whole.mixed) == 1


def test_markers_are_planted_where_nothing_is_proved(tmp_path: Path) -> None:
    opened, drive = device(64 * MIB)
    places = verify.areas("ab", "0", drive.size, 256)
    planted = verify.plant(opened, "ab", places, verify.look(opened, places, lambda _: None))
    assert 32 <= len(planted) <= 64 and 0 in planted
    again = verify.look(opened, places, lambda _: None)
    assert again.proving >= 8 * len(planted)
    assert verify.marker("ab", "vda", 0, 4096) != verify.marker("ac", "vda", 0, 4096)


def test_a_drive_that_does_not_keep_a_marker_is_an_error() -> None:
    opened, drive = device()
    places = verify.areas("ab", "0", drive.size, 16)
    before = verify.look(opened, places, lambda _: None)
    drive.put = lambda offset, data: None  # type: ignore[method-assign]
    with pytest.raises(OSError, match="does not keep"):
        verify.plant(opened, "ab", places, before)


@pytest.mark.parametrize(("limit", "block"), [(1 << 30, 512), (2 * MIB, 65536), (64 << 10, 2 * MIB)])
def test_one_block_that_stays_in_noise_is_found_in_the_whole(
    limit: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "SMALL", limit)
    monkeypatch.setattr(verify, "MAX_BLOCKS", 4 if block > MIB else 1 << 21)
    opened, drive = device()
    drive.medium[:] = random.Random(1).randbytes(drive.size)
    drive.medium[:MIB] = bytes(MIB)
    before = verify.Whole(drive.size).read(opened, lambda _: None)
    kept = bytes(drive.medium[4 * MIB : 4 * MIB + block])
    drive.medium[:] = random.Random(2).randbytes(drive.size)
    after = verify.Whole(drive.size).read(opened, lambda _: None)
    assert (before.block, before.unchanged(after), before.unchanged(before)) == (block, 0, -(-7 * MIB // block))
    drive.medium[4 * MIB : 4 * MIB + block] = kept
    assert before.unchanged(verify.Whole(drive.size).read(opened, lambda _: None)) == 1


def test_a_very_large_disk_takes_little_memory() -> None:
    whole = verify.Whole(24 << 40)
    assert -(-whole.size // whole.block) * verify.DIGEST <= 16 * MIB
    assert (verify.Whole(1 << 30).block, verify.Whole(100 << 30).block) == (512, 65536)
