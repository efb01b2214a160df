"""The inequalities between timers: what must hold for failures to be noticed in order, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.config.errors import SettingPath

if TYPE_CHECKING:
    from shoal.config.schema import Config


@dataclass(frozen=True, slots=True)
class Inequality:
    """A relation that must hold between timers.

    Attributes:
        left: the setting that is bounded.
        strict: whether equal is not enough.
        right: what bounds it, in words of the file.
        settings: the settings `right` is made of.
        lesser: computes the smaller side, in seconds.
        greater: computes the larger side, in seconds.
        reason: why, as the end of a sentence that begins with "or".
        upwards: `left` is the larger side.
        standby: it matters only where there is a standby node.
    """

    left: SettingPath
    right: str
    settings: tuple[SettingPath, ...]
    lesser: Callable[[Config], float]
    greater: Callable[[Config], float]
    reason: str
    strict: bool = True
    upwards: bool = False
    standby: bool = False

    @property
    def relation(self) -> str:
        """The sign between left and right."""
        return (">" if self.upwards else "<") + ("" if self.strict else "=")

    def applies(self, config: Config) -> bool:
        """Return whether it matters for `config`."""
        return not self.standby or any(n.role == "standby" for n in config.nodes)

    def holds(self, config: Config) -> bool:
        """Return whether `config` fulfils it."""
        less, more = self.lesser(config), self.greater(config)
        return less < more if self.strict else less <= more

    def sides(self, config: Config) -> tuple[float, float]:
        """Return the values of left and right in seconds."""
        less, more = self.lesser(config), self.greater(config)
        return (more, less) if self.upwards else (less, more)


_INTERVAL: SettingPath = ("cluster", "heartbeat_interval")
_SUSPECT: SettingPath = ("cluster", "suspect_after")
_CONFIRM: SettingPath = ("cluster", "confirm_timeout")

INEQUALITIES: tuple[Inequality, ...] = (
    Inequality(
        left=_CONFIRM,
        strict=False,
        right="cluster.heartbeat_interval x cluster.suspect_after",
        settings=(_INTERVAL, _SUSPECT),
        lesser=lambda c: c.cluster.confirm_timeout,
        greater=lambda c: c.cluster.heartbeat_interval * c.cluster.suspect_after,
        reason="confirming a suspicion takes longer than forming one",
    ),
    Inequality(
        left=("cluster", "leave_after"),
        upwards=True,
        right="cluster.heartbeat_interval x cluster.suspect_after + cluster.confirm_timeout",
        settings=(_INTERVAL, _SUSPECT, _CONFIRM),
        lesser=lambda c: c.cluster.detection_time,
        greater=lambda c: c.cluster.leave_after,
        reason="a node is forgotten before it is known to be dead",
    ),
    Inequality(
        left=("gateway", "connect_timeout"),
        right="communication.timeout",
        settings=(("communication", "timeout"),),
        lesser=lambda c: c.gateway.connect_timeout,
        greater=lambda c: c.communication.timeout,
        reason="a request fails before a second engine is tried",
    ),
    Inequality(
        left=("engines", "probe_interval"),
        right="engines.start_timeout",
        settings=(("engines", "start_timeout"),),
        lesser=lambda c: c.engines.probe_interval,
        greater=lambda c: c.engines.start_timeout,
        reason="a start fails before the engine is asked once",
    ),
    Inequality(
        left=("engines", "probe_timeout"),
        right="engines.start_timeout",
        settings=(("engines", "start_timeout"),),
        lesser=lambda c: c.engines.probe_timeout,
        greater=lambda c: c.engines.start_timeout,
        reason="a start fails before the engine could answer",
    ),
    Inequality(
        left=("recovery", "restart_delay"),
        strict=False,
        right="recovery.restart_delay_max",
        settings=(("recovery", "restart_delay_max"),),
        lesser=lambda c: c.recovery.restart_delay,
        greater=lambda c: c.recovery.restart_delay_max,
        reason="the first delay is longer than the longest",
    ),
    Inequality(
        left=("recovery", "healthy_after"),
        upwards=True,
        right="engines.probe_interval",
        settings=(("engines", "probe_interval"),),
        lesser=lambda c: c.engines.probe_interval,
        greater=lambda c: c.recovery.healthy_after,
        reason="an engine counts as healthy before it is probed once",
    ),
    Inequality(
        left=("recovery", "takeover_after"),
        standby=True,
        upwards=True,
        right="2 x cluster.heartbeat_interval",
        settings=(_INTERVAL,),
        lesser=lambda c: 2 * c.cluster.heartbeat_interval,
        greater=lambda c: c.recovery.takeover_after,
        reason="a standby node takes over before all of them have heard of the loss",
    ),
    Inequality(
        left=("recovery", "return_after"),
        standby=True,
        upwards=True,
        right="cluster.heartbeat_interval x cluster.suspect_after + cluster.confirm_timeout",
        settings=(_INTERVAL, _SUSPECT, _CONFIRM),
        lesser=lambda c: c.cluster.detection_time,
        greater=lambda c: c.recovery.return_after,
        reason="a standby node gives back to a node that is lost again already",
    ),
    Inequality(
        left=("recovery", "stall_timeout"),
        upwards=True,
        right="engines.probe_interval",
        settings=(("engines", "probe_interval"),),
        lesser=lambda c: c.engines.probe_interval,
        greater=lambda c: c.recovery.stall_timeout,
        reason="an engine counts as hung before it is looked at twice",
    ),
)


def seconds(value: float) -> str:
    """Return a time for people: ``1.9 s``."""
    return f"{value:.6g} s"
