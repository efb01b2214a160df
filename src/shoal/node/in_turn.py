"""Nodes that have engines to replace by themselves do so one after the other: together they would serve nothing."""

from __future__ import annotations

from shoal.cluster.view import Member, MemberState, View


class InTurn:
    """Says for one node when it is its turn: when no other one is at it, and none before it, by name, has yet to begin.

    That is for changes that nobody leads: what was applied while this node was away, or goes back because whoever
    applied it is gone.

    Args:
        patience: seconds after which a node does not wait any longer for those before it.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: float | None = None

    def waits(self, view: View, generation: int, replacing: str, now: float) -> bool:
        """Return whether this node has to wait.

        Args:
            view: members.
            generation: of the configuration this node goes by.
            replacing: of this node, as in `NodeReport`.
            now: seconds on a steady clock.
        """
        if replacing != "waits":
            self._since = None
            return False
        if self._since is None:
            self._since = now
        if now - self._since >= self._patience:
            return False
        return any(self._goes_first(m, view.me, generation) for m in view.members if m.name != view.me)

    @staticmethod
    def _goes_first(other: Member, me: str, generation: int) -> bool:
        report = other.report
        if other.state is not MemberState.ALIVE or report is None or report.role != "serve":
            return False
        if report.replacing == "acts":
            return True
        return other.name < me and (report.replacing == "waits" or report.generation < generation)
