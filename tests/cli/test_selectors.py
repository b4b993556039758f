"""Which machines are meant by what an operator writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalbox.cli.selectors import MAX_NAMES, guard, natural, select, spell, split
from metalbox.errors import InvalidValue, MetalboxError, NotFound, Refused

RACKS = [f"r{rack}-{place:02d}" for rack in (1, 2, 3) for place in range(1, 21)]
SMALL = st.text("r1203-[],= al", max_size=24)


def test_names_lists_and_ranges() -> None:
    assert select(["r1-02", "r1-01", "r1-02"], RACKS) == ("r1-02", "r1-01")
    assert select(["r1-01,r3-20", " r2-07 "], RACKS) == ("r1-01", "r3-20", "r2-07")
    assert select(["r1-[01-20]"], RACKS) == tuple(RACKS[:20])
    assert select(["r[1-3]-[01-20]"], RACKS) == tuple(RACKS)
    assert select(["r[1,3]-[01-02,19],r2-01"], RACKS) == (
        *("r1-01", "r1-02", "r1-19", "r3-01", "r3-02", "r3-19"),
        "r2-01",
    )
    assert select(["R1-02"], RACKS) == ("r1-02",)


def test_all_is_in_the_order_that_people_count() -> None:
    assert select(["all"], ["r10", "r2", "a", "r1"]) == ("a", "r1", "r2", "r10")
    assert select(["r2,all"], ["r10", "r2"]) == ("r2", "r10")
    assert sorted(["r1-10", "r1-9", "10", "r", ""], key=natural) == ["", "10", "r", "r1-9", "r1-10"]


def test_zeros_are_as_the_beginning_has_them() -> None:
    assert spell("n[8-11]") == ["n8", "n9", "n10", "n11"]
    assert spell("n[08-11]") == ["n08", "n09", "n10", "n11"]
    assert spell("n[098-101]x") == ["n098x", "n099x", "n100x", "n101x"]
    assert spell("n[0-2]") == ["n0", "n1", "n2"]
    assert spell("n[7]") == ["n7"]
    assert spell("r[1-2]-[1-2]") == ["r1-1", "r1-2", "r2-1", "r2-2"]
    assert split("a,b[1,2],,c") == ["a", "b[1,2]", "c"]


def test_other_marks_of_a_machine() -> None:
    marks = {"1": "lab0001", "2": "lab0002", "52:54:00:ab:cd:ef": "lab0002", "SN=7,8": "lab0001", "lab0001": "lab0002"}
    names = ["lab0001", "lab0002"]
    assert select(["52-54-00-AB-CD-EF"], names, aliases=marks) == ("lab0002",)
    assert select(["[1-2]"], names, aliases=marks) == ("lab0001", "lab0002")
    # A serial may hold what otherwise parts selectors.
    assert select(["sn=7,8"], names, aliases=marks) == ("lab0001",)
    # A name goes before another machine's mark.
    assert select(["LAB0001"], names, aliases=marks) == ("lab0001",)


def test_names_that_differ_by_case_only_are_to_be_written_as_they_are() -> None:
    assert select(["Web"], ["web", "Web"]) == ("Web",)
    with pytest.raises(NotFound, match="no machine is called WEB; did you mean"):
        select(["WEB"], ["web", "Web", "WEb"])


@pytest.mark.parametrize(
    ("selector", "sentence"),
    [
        ("r1-1", "no machine is called r1-1; did you mean r1-19 or r1-18 or r1-17?"),
        ("printer", "no machine is called printer; `metalbox list` shows all"),
        ("r1-[19-21]", "no machine is called r1-21; did you mean"),
        ("r4-[01-20]", "20 machines are not known: r4-01, r4-02, r4-03 and 17 more; did you mean"),
        ("r1-01,x,y", "2 machines are not known: x, y; `metalbox list` shows all"),
    ],
)
def test_what_is_not_known(selector: str, sentence: str) -> None:
    with pytest.raises(NotFound) as caught:
        select([selector], RACKS)
    assert str(caught.value).startswith(sentence)
    assert caught.value.exit_code == 3


def test_all_of_nothing() -> None:
    with pytest.raises(NotFound, match="there are no machines yet"):
        select(["all"], [])


@pytest.mark.parametrize(
    ("selector", "sentence"),
    [
        ("", "no machine is named"),
        (" , ", "no machine is named"),
        ("r1-[01-20", "a bracket is open or too many"),
        ("r1-01]", "a bracket is open or too many"),
        ("r[1-[2-3]]", "a bracket is open or too many"),
        ("r1-[]", r"\[\] is no range of numbers"),
        ("r1-[a-b]", r"\[a-b\] is no range of numbers"),
        ("r1-[20-01]", "20-01 ends before it begins"),
        ("r1-[007-9]", "begins with zeros"),
        ("r1-[1-99999]", "spells more than 10,000 names"),
        ("r[1-999]-[1-999]", "spells more than 10,000 names"),
    ],
)
def test_what_cannot_be_read(selector: str, sentence: str) -> None:
    with pytest.raises(InvalidValue, match=sentence):
        select([selector], RACKS)
    with pytest.raises(InvalidValue, match="no machine is named"):
        select([], RACKS)


LABELS = {"a10": {"rack": "r1", "role": "web"}, "a2": {"rack": "r1", "role": "db"}, "b1": {"rack": "r2"}, "c1": {}}


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        (["rack=r1"], ("a2", "a10")),
        (["rack=r1,role!=db"], ("a10",)),
        (["role!=db"], ("a10", "b1", "c1")),
        (["role=web,rack"], ("a10",)),
        (["!rack"], ("c1",)),
        (["c1", "rack=r2"], ("c1", "b1")),
        (["rack=r2", "b1", "all"], ("b1", "a2", "a10", "c1")),
    ],
)
def test_labels(selector: list[str], names: tuple[str, ...]) -> None:
    assert select(selector, LABELS, labels=LABELS) == names


def test_labels_that_no_machine_has() -> None:
    for selector in ("rack=r3", "r1-01,role=web"):
        with pytest.raises(NotFound, match="no machine has the labels") as caught:
            select([selector], LABELS, labels=LABELS)
        assert caught.value.exit_code == 3
    with pytest.raises(InvalidValue, match="the value of rack"):
        select(["rack="], LABELS, labels=LABELS)
    with pytest.raises(NotFound, match="no machine is called rack"):
        select(["rack"], LABELS, labels=LABELS)


def test_the_guard() -> None:
    guard(RACKS[:10], 10, verb="power off")
    with pytest.raises(Refused) as caught:
        guard(RACKS[:11], 10, verb="power off")
    assert str(caught.value) == (
        "power off would mean 11 machines (r1-01, r1-02, r1-03 and 8 more), and at most 10 are allowed: "
        "nothing was done; add --max 11 if you mean them all"
    )
    assert caught.value.exit_code == 4
    with pytest.raises(Refused, match=r"2 machines \(r1-01, r1-02\), and at most 1"):
        guard(RACKS[:2], 1, verb="power off")


@given(st.integers(0, 2000), st.integers(0, 300), st.integers(1, 5))
def test_a_range_spells_what_a_count_does(first: int, more: int, width: int) -> None:
    begin, end = f"{first:0{width}d}", f"{first + more:0{width}d}"
    assert spell(f"n[{begin}-{end}]") == [f"n{number:0{width}d}" for number in range(first, first + more + 1)]


@given(st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True), min_size=1, max_size=20, unique=True))
def test_every_known_name_selects_itself(names: list[str]) -> None:
    names = [name for name in names if name != "all"] or ["a"]
    assert select(names, names) == tuple(names)
    assert select([",".join(names)], names) == tuple(names)
    assert set(select(["all"], names)) == set(names)


@given(st.lists(SMALL, max_size=4))
def test_whatever_is_written_only_known_machines_are_meant(selectors: list[str]) -> None:
    try:
        found = select(selectors, RACKS)
    except MetalboxError as error:
        assert isinstance(error, NotFound | InvalidValue | Refused) and str(error)
    else:
        assert found and set(found) <= set(RACKS) and len(set(found)) == len(found)


@given(SMALL)
def test_what_is_spelled_is_bounded(text: str) -> None:
    try:
        assert 1 <= len(spell(text)) <= MAX_NAMES
    except (InvalidValue, Refused) as error:
        assert str(error)
