"""The configuration: what is accepted, and that each mistake is one sentence with file, line and value."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from metalbox import config
from metalbox.config import Config, Mode
from metalbox.errors import ConfigError

GOOD = """
data_dir: /srv/metalbox
dhcp:
  interfaces: [eth1, eth2]
  null_ra: false
http: {port: 80}
subnets:
  - subnet: 192.0.2.0/24
    interface: eth1
    mode: full
    pools: [192.0.2.100-192.0.2.199, 192.0.2.210]
    router: 192.0.2.1
    lease_seconds: 600
    reservations:
      - {mac: 52-54-00-AB-CD-EF, address: 192.0.2.10, hostname: db1}
  - subnet: 198.51.100.0/24
    mode: off
"""


def test_a_whole_file() -> None:
    settings = config.parse(GOOD)
    assert settings.data_dir == Path("/srv/metalbox")
    assert settings.dhcp.interfaces == ("eth1", "eth2")
    assert not settings.dhcp.null_ra
    assert settings.http.port == 80
    first, second = settings.subnets
    assert first.subnet == IPv4Network("192.0.2.0/24")
    assert first.mode is Mode.FULL
    assert sum(len(pool) for pool in first.pools) == 101
    assert IPv4Address("192.0.2.150") in first.pools[0]
    assert first.reservations[0].mac == "52:54:00:ab:cd:ef"
    assert second.mode is Mode.OFF


@pytest.mark.parametrize("text", ["", "# nothing\n", "dhcp:\n", "subnets:\n"])
def test_an_empty_file_is_all_defaults(text: str) -> None:
    assert config.parse(text) == Config()


BAD = [
    ("dat_dir: /x", 1, "unknown setting 'dat_dir' in the file: did you mean 'data_dir'?"),
    ("dhcp:\n  interfacs: [a]", 2, "unknown setting 'interfacs' in dhcp: did you mean 'interfaces'?"),
    ("dhcp:\n  default_mode: full", 2, "dhcp.default_mode: may be off or proxy; list a subnet to give addresses on it"),
    ("http:\n  port: 70000", 2, "http.port: expected a whole number from 1 to 65535, got 70000"),
    ("http:\n  port: true", 2, "http.port: expected a whole number from 1 to 65535, got True"),
    ("http:\n  port: 1\n  port: 2", 3, "'port' is set twice in http"),
    ("http:\n  address: 192.0.2.300", 2, "http.address: expected an IPv4 address like 192.0.2.1, got '192.0.2.300'"),
    ("a: [", 1, "not valid YAML: expected the node content, but found '<stream end>'"),
    ("- 3", 1, "expected settings as `name: value` in the file"),
    ("log_level: loud", 1, "log_level: expected one of debug, info, warning, error, got 'loud'"),
    ("data_dir: 2026-99-99", 1, "cannot read this value: month must be in 1..12"),
    ("subnets: 3", 1, "subnets: expected a list"),
    ("subnets:\n - mode: proxy", 2, "a subnet needs `subnet: 192.0.2.0/24`"),
    (
        "subnets:\n - subnet: 192.0.2.1/24",
        2,
        "subnets.subnet: expected a network like 192.0.2.0/24, got '192.0.2.1/24'; did you mean 192.0.2.0/24?",
    ),
    (
        "subnets:\n - subnet: 192.0.2.0/24\n - subnet: 192.0.2.128/25",
        3,
        "subnet 192.0.2.128/25 overlaps 192.0.2.0/24, listed before it",
    ),
    (
        "subnets:\n - subnet: 192.0.2.0/24\n   mode: full\n   pools:\n"
        "    - 192.0.2.10-192.0.2.20\n    - 192.0.2.20-192.0.2.30",
        5,
        "pool 192.0.2.20-192.0.2.30 overlaps pool 192.0.2.10-192.0.2.20",
    ),
    (
        "subnets:\n - subnet: 192.0.2.0/24\n   pools: [198.51.100.1-198.51.100.9]",
        3,
        "pool 198.51.100.1-198.51.100.9 is outside of the subnet 192.0.2.0/24",
    ),
    (
        "subnets:\n - subnet: 192.0.2.0/24\n   pools: [192.0.2.20-192.0.2.10]",
        3,
        "subnets.pools: expected the lower address first in the pool '192.0.2.20-192.0.2.10'",
    ),
    (
        "subnets:\n - subnet: 192.0.2.0/24\n   mode: full",
        2,
        "subnet 192.0.2.0/24 is in full mode and has neither pools nor reservations",
    ),
    ("subnets:\n - subnet: 192.0.2.0/24\n   interface: averyveryverylongname", 3, "averyveryverylongname"),
    (
        "subnets:\n - subnet: 192.0.2.0/24\n   reservations:\n    - mac: 52:54:00:11:22:33\n      address: 192.0.2.4",
        4,
        "put the address in quotes",
    ),
    (
        "subnets:\n - subnet: 192.0.2.0/24\n   reservations:\n    - {mac: 'zz', address: 192.0.2.4}",
        4,
        "'zz' is not a MAC address",
    ),
    ("subnets:\n - subnet: 192.0.2.0/24\n   reservations: [{address: 192.0.2.4}]", 3, "needs both mac and address"),
    (
        "subnets:\n - subnet: 192.0.2.0/24\n   reservations:\n"
        "    - {mac: '52:54:00:00:00:0a', address: 192.0.2.4}\n    - {mac: '52:54:00:00:00:0b', address: 192.0.2.4}",
        4,
        "address 192.0.2.4 is reserved twice",
    ),
    ("power_budgets:\n - per_second: 0", 2, "power_budgets.per_second: expected a number from 0.001 to 1000, got 0"),
    ("power_budgets:\n - label: rack\n   burst: many", 3, "expected a whole number from 1 to 10000, got 'many'"),
    ("power_budgets:\n - label: rack\n - {label: rack, burst: 2}", 3, "the label 'rack' has two budgets"),
]


@pytest.mark.parametrize(("text", "line", "sentence"), BAD, ids=[sentence[:40] for _, _, sentence in BAD])
def test_a_mistake_is_one_sentence_with_its_line(text: str, line: int, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, "box.yaml")
    message = str(caught.value)
    assert message.startswith("box.yaml:"), message
    assert "\n" not in message
    assert sentence in message
    assert caught.value.line == line


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration: No such file"):
        config.load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.load(tmp_path / "binary.yaml")


def test_rules_for_new_machines() -> None:
    text = """
accept_rules:
  - {name: spares, policy: reject, vendor: "ACME*"}
  - policy: accept
    serials: [S1, 4711]
    macs: [52-54-00-AB-CD-EF]
    level: purge
"""
    spares, expected = config.parse(text).accept_rules
    assert (spares.name, spares.policy, spares.vendor, spares.level) == ("spares", config.Policy.REJECT, "ACME*", None)
    assert (expected.serials, expected.macs, expected.level) == (("S1", "4711"), ("52:54:00:ab:cd:ef",), "purge")
    assert config.parse("accept_rules:").accept_rules == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("accept_rules: [{policy: accept}]", 'a rule without a condition; write `vendor: "\\*"` if you mean all'),
        ("accept_rules: [{policy: erase, vendor: x}]", "expected one of manual, accept, adopt, reject, got 'erase'"),
        ("erase: {level: destroy}", "expected one of clear, purge, got 'destroy'"),
        ("erase: {per_hour: 0}", "expected a whole number from 1"),
    ],
)
def test_rules_that_cannot_be(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        config.parse(text)
