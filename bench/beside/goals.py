"""What is to be reached, by the name of the `ratio` line. Pure.

A name that ends in a unit is no quotient of two servers but a figure of ours that has a limit of its own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Goal:
    """At least `value`, or at most where `is_ceiling`."""

    value: float
    is_ceiling: bool = False

    @property
    def text(self) -> str:
        """As the ratio line shows it: `>=2.0`, `<=1.1`."""
        return f"{'<=' if self.is_ceiling else '>='}{self.value:g}"

    def is_met(self, value: float) -> bool:
        """Whether a ratio is good enough."""
        return value <= self.value if self.is_ceiling else value >= self.value


def _at_most(value: float) -> Goal:
    return Goal(value, is_ceiling=True)


GOALS: dict[str, Goal] = {
    "dhcp_vs_kea_st": Goal(2.0),
    "dhcp_vs_kea_mt": Goal(1.3),
    "dhcp_vs_dnsmasq": Goal(15.0),
    "dhcp_vs_isc": Goal(8.0),
    "dhcp_p99_vs_kea_at_80": _at_most(1.0),
    "dhcp_100k_vs_empty": Goal(0.8),
    "dhcp_duplicates": _at_most(0.0),
    "dhcp_restart_100k_seconds": _at_most(2.0),
    "tftp_w1_vs_atftpd": Goal(1.5),
    "tftp_w1_vs_dnsmasq": Goal(0.8),
    "tftp_w4_vs_atftpd": Goal(3.0),
    "tftp_w16_vs_atftpd": Goal(5.0),
    "tftp_w16_1_vs_atftpd": Goal(1.5),
    "tftp_1ms_vs_best": _at_most(1.05),
    "tftp_5ms_vs_best": _at_most(1.05),
    "tftp_failed_64": _at_most(0.0),
    "http_big_vs_nginx": Goal(0.95),
    "http_cpu_vs_nginx": _at_most(1.0),
    "http_script_p99": _at_most(20.0),
    "storm_vs_dnsmasq_nginx": _at_most(1.1),
    "storm_missing": _at_most(0.0),
    "storm_retries": _at_most(0.0),
    "storm_rss_mb": _at_most(300.0),
    "boot_vs_dnsmasq_nginx": _at_most(1.05),
    "inventory_idle_rss_mb": _at_most(120.0),
    "inventory_start_seconds": _at_most(1.0),
    "inventory_cli_list_10k_ms": _at_most(300.0),
    "inventory_filter_p99_10k_ms": _at_most(100.0),
}
