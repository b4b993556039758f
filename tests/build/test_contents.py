import itertools

import pytest

from metalbox.build import contents
from metalbox.errors import BuildError


@pytest.mark.parametrize(
    ("name", "expected"), [("x86_64", "x86_64"), ("amd64", "x86_64"), ("aarch64", "arm64"), ("arm64", "arm64")]
)
def test_an_architecture_has_several_names(name: str, expected: str) -> None:
    assert contents.architecture(name).name == expected


def test_an_unknown_architecture_names_the_known_ones() -> None:
    with pytest.raises(BuildError, match="cannot build for 'riscv64': known are x86_64, arm64"):
        contents.architecture("riscv64")


def test_no_module_is_listed_twice() -> None:
    for arch in contents.ARCHITECTURES.values():
        names = list(itertools.chain.from_iterable(arch.modules.values()))
        assert sorted(names) == sorted(set(names))


def test_disks_that_machines_may_share_stay_out_of_sight() -> None:
    names = set(itertools.chain.from_iterable(contents.ARCHITECTURES["x86_64"].modules.values()))
    assert not names & {"qla2xxx", "lpfc", "iscsi_tcp", "nvme_tcp", "nvme_fc", "nvme_rdma", "bfa", "fnic"}
