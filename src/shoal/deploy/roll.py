"""Carries a deployment out: prepared everywhere at once, then one node after the other, up to the first failure."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from shoal.deploy.plan import Place, Target, Work, lacking, problems, ready_engines, work_for
from shoal.deploy.release import Installation, NodeFiles
from shoal.deploy.ssh import Machine, MachineError

T = TypeVar("T")

_POLL = 1.0  # seconds between two questions to a node that starts
_TELL = 15.0  # seconds after which what is waited for is told again
_START_TIMEOUT = 300.0  # seconds until a node process answers; engines take their own time after that


class DeployError(Exception):
    """The deployment has stopped; the text says where, why, and what helps."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a deployment goes.

    Attributes:
        python: interpreter on the machines, None to look for one.
        sudo: become root there.
        parallel: machines on which is installed at the same time.
        timeout: seconds a node and its engines may take to be ready.
    """

    python: str | None = None
    sudo: bool = False
    parallel: int = 4
    timeout: float = 1800.0


class Deployment:
    """One deployment of a cluster."""

    def __init__(
        self,
        places: Sequence[Place],
        machines: Mapping[str, Machine],
        options: Options,
        say: Callable[[str], None],
    ) -> None:
        self.places = {place.node: place for place in places}
        self._machines = machines
        self._options = options
        self._say = say
        self.facts: dict[str, dict[str, Any]] = {}

    def survey(self) -> None:
        """Ask every machine what is there, all at once.

        Raises:
            DeployError: some cannot be reached or used; nothing was done.
        """
        wrong = []
        for place, answer in self._everywhere(self.places.values(), self._facts, len(self.places)):
            if isinstance(answer, MachineError):
                wrong.append(f"{place.node}: {answer}")
                continue
            self.facts[place.node] = answer
            if not place.user:
                self.places[place.node] = replace(place, user=answer["user"])
        for node, facts in self.facts.items():
            wrong += [f"{node}: {p}" for p in problems(self.places[node], facts, sudo=self._options.sudo)]
        if wrong:
            raise DeployError("\n".join([*wrong, "Nothing was done."]))

    def works(self, installation: Installation, files: NodeFiles) -> list[Work]:
        """Return what has to be done, node by node."""
        return [
            work_for(node, _target(place, installation, files), self.facts[node])
            for node, place in self.places.items()
        ]

    def install(self, works: Iterable[Work], installation: Installation) -> None:
        """Install where it is not, on several machines at the same time. What runs is not touched.

        Raises:
            DeployError: it failed somewhere; no node has changed.
        """
        places = {
            (place.destination, place.prefix): place
            for place in (self.places[w.node] for w in works if w.install)
        }
        if not places:
            return

        def one(place: Place) -> Any:
            self._say(f"{place.node}: installing {installation.id} in {place.prefix}")
            request = {
                "do": "install",
                "prefix": place.prefix,
                "id": installation.id,
                "python": self.facts[place.node]["python"],
                "requirements": installation.requirements,
                "pip_args": installation.pip_args,
            }
            return self._machine(place).call(request, [(w.name, w) for w in installation.wheels])

        wrong = []
        for place, answer in self._everywhere(places.values(), one, self._options.parallel):
            if isinstance(answer, MachineError):
                wrong.append(f"{place.node}: {answer}")
            else:
                self._say(f"{place.node}: installed")
        if wrong:
            raise DeployError(
                "\n".join([*wrong, "No node was changed. Put it right and run the command again."])
            )

    def roll(self, works: Sequence[Work], installation: Installation, files: NodeFiles) -> None:
        """Give each node its release and start it anew, one after the other.

        Raises:
            DeployError: a node failed; those after it were not touched.
        """

        def change(work: Work) -> None:
            place = self.places[work.node]
            request = self._request("release", place, id=installation.id, version=installation.version)
            if work.release:
                self._machine(place).call(request, list(files.content.items()))

        self._one_by_one(works, change)

    def roll_back(self, nodes: Sequence[str]) -> None:
        """Give each node its former release back, one after the other.

        Raises:
            DeployError: a node failed, or has none; those after it were not touched.
        """
        works = [
            Work(node, False, True, self.facts[node]["nodes"][node]["pid"] is not None, ("rollback",))
            for node in nodes
        ]
        missing = [n for n in nodes if self.facts[n]["nodes"][n]["former"] is None]
        if missing:
            raise DeployError(
                f"{', '.join(missing)}: there is no former release to go back to. Nothing was done."
            )
        self._one_by_one(
            works,
            lambda work: self._machine(self.places[work.node]).call(
                self._request("rollback", self.places[work.node])
            ),
        )

    def stop(self) -> None:
        """Stop the nodes and their engines, one after the other; units are not started at boot any more.

        Raises:
            DeployError: one cannot be stopped.
        """
        for node, place in self.places.items():
            if self.facts[node]["nodes"][node]["pid"] is None:
                self._say(f"{node}: does not run")
                continue
            self._say(f"{node}: stopping")
            request = self._request("stop", place, unit=place.unit, stop_timeout=_stop_timeout(place))
            try:
                self._machine(place).call(request)
            except MachineError as error:
                raise DeployError(f"{node}: {error}") from None

    def tidy(self) -> None:
        """Remove installations that nobody needs any more: neither running now nor wanted for a rollback."""
        for place in {(p.destination, p.prefix): p for p in self.places.values()}.values():
            for name in self._machine(place).call({"do": "tidy", "prefix": place.prefix})["removed"]:
                self._say(f"{place.node}: removed {name}, which nothing uses any more")

    def status_of(self, place: Place) -> dict[str, Any] | None:
        """Return the status document of a node, None while it does not answer."""
        answer = self._machine(place).call(self._request("probe", place))["answer"]
        return None if answer is None else dict(answer)

    # -- how

    def _one_by_one(self, works: Sequence[Work], change: Callable[[Work], None]) -> None:
        before = self._capacity(works)
        done: list[str] = []
        try:
            for work in works:
                if work.nothing:
                    self._say(f"{work.node}: nothing to do")
                    continue
                change(work)
                if work.restart:
                    self._say(
                        f"{work.node}: {'restarting' if work.running else 'starting'}: {work.reasons[0]}"
                    )
                    self._start(self.places[work.node])
                    # Engines across nodes that do not run yet cannot be waited for, one node at a time.
                    if work.running:
                        self._wait(self.places[work.node], before)
                    self._say(f"{work.node}: {'ready' if work.running else 'started'}")
                else:
                    self._say(f"{work.node}: files renewed, no restart needed")
                done.append(work.node)
            for work in works:
                if work.restart and not work.running:
                    self._wait(self.places[work.node], before)
        except MachineError as error:
            raise DeployError(_advice(work.node, str(error), done, [w.node for w in works])) from None

    def _capacity(self, works: Sequence[Work]) -> dict[str, int]:
        """Return how many engines of each model are ready now, as the node that sees most of them says."""
        if not any(work.running and work.restart for work in works):
            return {}
        best: dict[str, int] = {}
        for work in works:
            status = self.status_of(self.places[work.node]) if work.running else None
            if status is not None:
                found = ready_engines(status)
                best = {m: max(best.get(m, 0), found.get(m, 0)) for m in {*best, *found}}
        return best

    def _start(self, place: Place) -> None:
        self._machine(place).call(
            self._request(
                "restart",
                place,
                unit=place.unit,
                unit_text=place.unit_text,
                command=place.command,
                start_timeout=_START_TIMEOUT,
                stop_timeout=_stop_timeout(place),
            )
        )

    def _wait(self, place: Place, before: Mapping[str, int]) -> None:
        """Return when a node has all it should have, and the cluster what it had before.

        Raises:
            MachineError: not in time.
        """
        end, told = time.monotonic() + self._options.timeout, time.monotonic()
        while missing := lacking(before, place.node, self.status_of(place)):
            if time.monotonic() > end:
                raise MachineError(f"not ready within {self._options.timeout:g} s: {missing}")
            if time.monotonic() - told > _TELL:
                told = time.monotonic()
                self._say(f"{place.node}: waiting: {missing}")
            time.sleep(_POLL)

    def _facts(self, place: Place) -> Any:
        request = {
            "do": "facts",
            "prefix": place.prefix,
            "homes": {place.node: place.home},
            "units": {place.node: place.unit},
            "python": self._options.python,
        }
        return self._machine(place).call(request)

    def _request(self, what: str, place: Place, **more: Any) -> dict[str, Any]:
        base = {"do": what, "prefix": place.prefix, "home": place.home, "node": place.node}
        return {**base, "owner": place.user, **more}

    def _machine(self, place: Place) -> Machine:
        return self._machines[place.destination]

    def _everywhere(
        self, places: Iterable[Place], work: Callable[[Place], T], parallel: int
    ) -> list[tuple[Place, T | MachineError]]:
        """Return what `work` gives or raises for each place, several at the same time."""

        def one(place: Place) -> T | MachineError:
            try:
                return work(place)
            except MachineError as error:
                return error

        every = list(places)
        with ThreadPoolExecutor(max_workers=max(1, min(parallel, len(every)))) as pool:
            return list(zip(every, pool.map(one, every), strict=True))


def _stop_timeout(place: Place) -> float:
    """Return the seconds that a node may take to finish what it has open, and its engines after that."""
    return place.drain_timeout * 2 + 30


def _target(place: Place, installation: Installation, files: NodeFiles) -> Target:
    unit = hashlib.sha256(place.unit_text.encode()).hexdigest()
    return Target(installation.id, installation.version, files.digests, unit)


def _advice(failed: str, why: str, done: Sequence[str], every: Sequence[str]) -> str:
    before = [node for node in done if node != failed]
    left = [node for node in every if node != failed and node not in done]
    lines = [f"{failed}: {why}"]
    if before:
        lines.append(f"Done before it: {', '.join(before)}.")
    if left:
        lines.append(f"Not touched: {', '.join(left)}; they serve on as they are.")
    lines.append(
        "Put it right and run the command again, which goes on where this one stopped; or go back:\n"
        f"  shoal deploy FILE --rollback --only {failed}"
    )
    return "\n".join(lines)
