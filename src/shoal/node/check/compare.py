"""What the answers of the other nodes mean. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shoal.node.check.asking import SILENT, Answers
from shoal.node.check.facts import Facts, ModelFiles
from shoal.node.check.findings import Finding, failure, ok, warning
from shoal.node.check.responder import Link

CLOCK_WARNING, CLOCK_FAILURE = 1.0, 60.0
"""Seconds between two clocks from which on they are warned of, and refused."""

SLOW = 100.0
"""Megabits per second between two nodes below which they are warned of."""

_LOSSY = 0.05  # share of lost datagrams
_SAME = {"version": "Shoal", "vllm": "vLLM", "torch": "PyTorch"}  # must be equal
_SIMILAR = {"driver": "NVIDIA driver", "cuda": "CUDA", "python": "Python"}  # should be
_PACKAGE = {"version": "shoal", "vllm": "vllm", "torch": "torch"}
_MOST_NAMED = 5


def reached(answers: Answers) -> Iterator[Finding]:
    """Yield what is to be said of the way to a node that was asked."""
    link = answers.link
    name, port = link.target, link.target.rpartition(":")[2]
    if answers.facts is None:
        yield failure("network", f"{name} does not answer over TCP: {link.problem}", _unreached(link, port))
        return
    if link.udp is None:
        yield failure(
            "network",
            f"{name} answers over TCP, but not over UDP",
            f"open UDP port {port} between the two machines, both ways (firewall, security group)",
        )
    elif link.lost > _LOSSY:
        yield warning(
            "network",
            f"{link.lost:.0%} of the datagrams to {name} and back are lost",
            "look at the network between the two machines; heartbeats bear some loss, not much",
        )
    if link.engine is False:
        yield failure(
            "network",
            f"the ports for engines of {name} cannot be connected to (tried {answers.facts.engine_port})",
            "open the TCP ports of `engines.ports` between the machines: gateways go straight to engines",
        )
    if link.mbit is not None and link.mbit < SLOW:
        yield warning(
            "network",
            f"only {link.mbit:.0f} Mbit/s to {name}",
            "look at the link between the two machines; long prompts and copies of models will be slow",
        )
    if link.udp is not None and link.engine is not False:
        yield ok(
            "network",
            f"{name}: TCP {link.tcp or 0:.2f} ms, UDP {link.udp:.2f} ms, {link.mbit or 0:.0f} Mbit/s",
        )


def _unreached(link: Link, port: str) -> str:
    if "secret" in link.problem:
        return "set the same `cluster.secret` (SHOAL_SECRET) and `cluster.name` on every node"
    if link.problem.startswith(SILENT):
        return (
            f"if that is `shoal serve`, stop it for the check or ask `shoal status {link.target}`; if not, give the "
            "node another `port`"
        )
    if link.problem == "connection refused":
        return f"run `shoal check FILE` there now too (they wait for each other, --wait), and open TCP port {port}"
    return f"correct `host` in the file, or open TCP port {port} between the two machines (firewall, security group)"


def others_links(links: Iterable[Link], own: str) -> Iterator[Finding]:
    """Yield what is to be said of ways between other nodes, as those have found them."""
    for link in links:
        if link.source == own:
            continue
        if link.problem:
            yield failure(
                "network", f"{link.source} does not reach {link.target}: {link.problem}", _there(link)
            )
        elif link.udp is None:
            yield failure("network", f"{link.source} does not reach {link.target} over UDP", _there(link))
        elif link.engine is False:
            yield failure(
                "network",
                f"{link.source} cannot connect to the ports for engines of {link.target}",
                _there(link),
            )
        elif link.lost > _LOSSY:
            yield warning(
                "network",
                f"{link.lost:.0%} of the datagrams from {link.source} to {link.target} and back are lost",
                _there(link),
            )
        elif link.mbit is not None and link.mbit < SLOW:
            yield warning(
                "network", f"only {link.mbit:.0f} Mbit/s from {link.source} to {link.target}", _there(link)
            )
        else:
            yield ok(
                "network",
                f"{link.source} to {link.target}: TCP {link.tcp or 0:.2f} ms, UDP {link.udp:.2f} ms, "
                f"{link.mbit or 0:.0f} Mbit/s",
            )


def _there(link: Link) -> str:
    return f"see what `shoal check` says on {link.source}"


def clocks(answers: Answers) -> Iterator[Finding]:
    """Yield what is to be said of a node's clock."""
    if answers.facts is None:
        return
    name, offset = answers.facts.node, answers.offset
    way = "ahead of" if offset > 0 else "behind"
    if abs(offset) >= CLOCK_WARNING:
        made = failure if abs(offset) >= CLOCK_FAILURE else warning
        yield made(
            "clock",
            f"the clock of {name} is {abs(offset):.1f} s {way} this one's",
            "set the clocks by NTP on all nodes: `timedatectl set-ntp true`",
        )
    else:
        yield ok("clock", f"the clock of {name} differs by {abs(offset) * 1000:.0f} ms")


def facts_agree(own: Facts, other: Facts) -> Iterator[Finding]:
    """Yield what is different on another node and should not be."""
    found = []
    for what, name in _SAME.items():
        mine, theirs = own.versions.get(what, ""), other.versions.get(what, "")
        if mine != theirs and "gateway" not in (own.role, other.role):
            fix = f"install the same on both: pip install '{_PACKAGE[what]}=={mine or theirs}'"
            found.append(
                failure("version", f"{other.node} has {name} {_v(theirs)}, this node {_v(mine)}", fix)
            )
    for what, name in _SIMILAR.items():
        mine, theirs = own.versions.get(what, ""), other.versions.get(what, "")
        if mine != theirs:
            fix = f"bring {name} to the same version on all nodes when you can"
            found.append(
                warning("version", f"{other.node} has {name} {_v(theirs)}, this node {_v(mine)}", fix)
            )
    if own.config_hash != other.config_hash:
        found.append(
            failure(
                "config",
                f"{other.node} has another configuration: nodes, models, cluster, routing or admission differ",
                "copy one file to all nodes; `shoal config show FILE` on both shows the difference",
            )
        )
    if not found:
        found.append(ok("version", f"{other.node} has the same versions and the same configuration"))
    yield from found


def _v(version: str) -> str:
    return version or "not installed"


def models_agree(node: str, own: Iterable[ModelFiles], theirs: Iterable[ModelFiles]) -> Iterator[Finding]:
    """Yield what is different in the files of models that this and another node both have.

    Args:
        node: name of the other one.
        own: the models here.
        theirs: the models there.
    """
    others = {model.name: model for model in theirs}
    for model in own:
        other = others.get(model.name)
        if other is None or model.problem or other.problem:
            continue
        different = sorted(
            name
            for name in model.files.keys() | other.files.keys()
            if model.files.get(name) != other.files.get(name)
        )
        if different:
            names = ", ".join(different[:_MOST_NAMED])
            more = f" and {len(different) - _MOST_NAMED} more" if len(different) > _MOST_NAMED else ""
            yield failure(
                "model",
                f"model {model.name} is not the same on {node}: {names}{more}",
                f"copy it from the right machine: rsync -ac {model.place}/ {node.rpartition(':')[0]}:{other.place}/",
            )
        else:
            yield ok("model", f"model {model.name} is the same on {node}")
