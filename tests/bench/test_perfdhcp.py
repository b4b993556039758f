"""What perfdhcp 2.2.0 prints, read back."""

from __future__ import annotations

import pytest

from bench.beside import perfdhcp

PRINTED = """Running: perfdhcp -4 -l 10.64.0.2 -r 1000 -R 100000 -p 3 -d 1 -u 10.64.0.1
***Rate statistics***
Rate: 985.42 4-way exchanges/second, expected rate: 1000

***Malformed Packets***
Malformed packets: 0
***Statistics for: DISCOVER-OFFER***
sent packets: 3000
received packets: 2990
drops: 10
drops ratio: 0.333333 %
orphans: 0
rejected leases: 0
non unique addresses: 0

min delay: 0.080 ms
avg delay: 0.284 ms
max delay: 9.871 ms
std deviation: 0.402 ms
collected packets: 0

***Statistics for: REQUEST-ACK***
sent packets: 2990
received packets: 2970
drops: 20
drops ratio: 0.668896 %
orphans: 0
rejected leases: 0
non unique addresses: 0

min delay: 0.060 ms
avg delay: 1.5e-1 ms
max delay: 4.001 ms
std deviation: 0.301 ms
collected packets: 0
"""


def test_both_halves_are_read() -> None:
    found = perfdhcp.parse(PRINTED)
    assert found["rate"] == 985.42
    assert (found["discover_sent"], found["discover_drops"], found["discover_avg_ms"]) == (3000, 10, 0.284)
    assert (found["request_received"], found["request_max_ms"], found["request_avg_ms"]) == (2970, 4.001, 0.15)
    assert found["request_drops_percent"] == 0.668896


def test_lost_is_what_was_begun_and_not_acknowledged() -> None:
    assert perfdhcp.lost_percent(perfdhcp.parse(PRINTED)) == pytest.approx(1.0)
    assert perfdhcp.lost_percent({}) == 100.0


def test_no_rate_is_an_error_with_its_last_words() -> None:
    with pytest.raises(ValueError, match="Address already in use"):
        perfdhcp.parse("perfdhcp: bind: Address already in use")


def test_the_command_is_a_relay_in_open_loop() -> None:
    command = perfdhcp.command("10.64.0.1", "10.64.0.2", 1000, 3, 50000)
    assert command[0] == "perfdhcp"
    assert command[-1] == "10.64.0.1"
    assert command[command.index("-r") + 1] == "1000"
    assert command[command.index("-l") + 1] == "10.64.0.2"
