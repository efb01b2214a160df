"""What changed between two reports of a member, in sentences. Load is not a change. No I/O."""

from __future__ import annotations

from shoal.cluster.addresses import format_address
from shoal.cluster.view import EngineReport, NodeReport, SeatReport, SeatState, full_id


def report_changes(old: NodeReport, new: NodeReport) -> list[str]:
    """Return a sentence for everything that matters to routing or to people and differs; none for load numbers."""
    name = new.name
    sentences = []
    if old.draining != new.draining:
        sentences.append(
            f"node {name} {'drains: it takes no new work' if new.draining else 'takes work again'}"
        )
    if old.drained != new.drained:
        sentences.append(
            f"node {name} {'is drained: its engines get no new requests' if new.drained else 'takes requests again'}"
        )
    if old.role != new.role:
        sentences.append(f"node {name} has the role {new.role} now (was {old.role})")
    if old.covers != new.covers:
        sentences += [f"node {name} does not stand in for {old.covers} any more"] if old.covers else []
        sentences += [f"node {name} stands in for {new.covers} now"] if new.covers else []
    seats = {seat.engine: seat for seat in old.seats}
    for seat in new.seats:
        sentences += _seat_changes(name, seats.pop(seat.engine, None), seat)
    sentences += [f"node {name} has no place in group {gone.group} any more" for gone in seats.values()]
    before = {engine.id: engine for engine in old.engines}
    for engine in new.engines:
        sentences += _engine_changes(full_id(name, engine.id), before.pop(engine.id, None), engine)
    sentences += [f"engine {full_id(name, gone)} is gone" for gone in before]
    return sentences


def _engine_changes(name: str, old: EngineReport | None, new: EngineReport) -> list[str]:
    detail = f": {new.detail}" if new.detail else ""
    if old is None:
        return [f"engine {name} is there, {new.state}{detail}"]
    if old.state is not new.state:
        return [f"engine {name} is {new.state} (was {old.state}){detail}"]
    if (old.host, old.port) != (new.host, new.port):
        return [f"engine {name} is at {format_address((new.host, new.port))} now"]
    if old.standby != new.standby:
        return [
            f"engine {name} {'gets no new requests: it is kept as a spare' if new.standby else 'gets requests now'}"
        ]
    if (old.served, old.max_model_len) != (new.served, new.max_model_len):
        return [f"engine {name} serves {', '.join(new.served) or 'nothing'} now"]
    if (old.weight, old.model, old.kind) != (new.weight, new.model, new.kind):
        return [f"engine {name} was reconfigured: {new.kind}, model {new.model}, weight {new.weight:g}"]
    return []


def _seat_changes(name: str, old: SeatReport | None, new: SeatReport) -> list[str]:
    """Return what happened to a node's part in a group; each of these is something the others may have to act on."""
    if old is None or old.group != new.group:
        return [f"node {name} has place {new.rank} in group {new.group}"]
    if (old.offer, old.token, old.leader) != (new.offer, new.token, new.leader) or old.state is not new.state:
        ended = new.state in (SeatState.ENDING, SeatState.FREE)
        reason = f": {new.reason}" if new.reason and ended else ""
        return [f"node {name} is {new.state} in generation {new.generation} of group {new.group}{reason}"]
    return []


def disagreements(mine: NodeReport, theirs: NodeReport) -> list[str]:
    """Return a sentence for each thing that all nodes of a cluster should share and these two do not."""
    sentences = []
    if mine.config_hash and theirs.config_hash and mine.config_hash != theirs.config_hash:
        sentences.append(
            f"configuration differs: {theirs.name} has {theirs.config_hash}, this node {mine.config_hash}: "
            "compare `shoal config show` on both"
        )
    if mine.version != theirs.version:
        sentences.append(
            f"versions differ: {theirs.name} runs Shoal {theirs.version}, this node {mine.version}"
        )
    return sentences
