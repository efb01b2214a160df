"""What must hold between settings. Pure: a configuration in, findings out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shoal.config.engine_args import PORTS, RESERVED_ENVIRONMENT, reserved
from shoal.config.engine_command import PLACES, places, unknown_places
from shoal.config.errors import SettingPath, printable, shorten, spell
from shoal.config.hosts import is_loopback
from shoal.config.timers import INEQUALITIES, seconds

if TYPE_CHECKING:
    from shoal.config.schema import Config, Model, Node

SECRET_VARIABLE = "SHOAL_SECRET"
_GIVE_A_SECRET = (
    "make one with `openssl rand -hex 32` and give every node the same, as environment variable "
    f"{SECRET_VARIABLE} or as `cluster.secret`"
)
KEY_VARIABLES = {"api_keys": "SHOAL_API_KEYS", "admin_keys": "SHOAL_ADMIN_KEYS"}
_MEANT_FOR_OWN_ENGINES = (
    *("engines_per_node", "gpus_per_engine", "nodes_per_engine", "tensor_parallel", "pipeline_parallel"),
    *("share_gpus", "nodes", "args", "env"),
)
_GPU_SETTINGS = ("engine", "nodes", "engines_per_node", "gpus_per_engine", "share_gpus")


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that is broken.

    Attributes:
        message: what is wrong and what would be right; names the settings itself.
        paths: settings to show it at; the first that the file gives is taken.
        reads: further settings the rule looked at, with all that is in them. If one of these or of `paths` is
            wrong itself, the finding may be only a consequence and is not told.
    """

    message: str
    paths: tuple[SettingPath, ...]
    reads: tuple[SettingPath, ...] = ()


class RulesError(ValueError):
    """A configuration breaks rules between its settings."""

    def __init__(self, broken: tuple[Finding, ...]) -> None:
        self.findings = broken
        super().__init__("; ".join(f.message for f in broken))


def findings(config: Config) -> Iterator[Finding]:
    """Yield every rule that `config` breaks."""
    yield from _nodes(config)
    yield from _models(config)
    for path, model in config.located_models():
        yield from _engine_kind(path, model)
        yield from _model_nodes(config, path, model)
        yield from _own_settings(path, model)
        yield from _span(config, path, model)
        yield from _replicas(path, model)
        if config.cluster.substrate == "ray":
            yield from _on_ray(config, path, model)
    yield from _gpus(config)
    yield from _engine_ports(config)
    yield from _timers(config)
    for message, setting in config.communication.problems():
        yield Finding(message, (("communication", *setting),), (("communication",),))


def serving_findings(config: Config) -> Iterator[Finding]:
    """Yield what does not make the file wrong, but must be settled before its cluster may start.

    Without a secret anyone who reaches a node could join the cluster, so only loopback goes without. Names
    are not resolved: what they mean may change after the check.
    """
    if config.cluster.secret is not None:
        return
    for i, node in enumerate(config.nodes):
        if (key := beyond_loopback(node)) is not None:
            yield Finding(
                f"node {node.name} can be reached from other machines ({key} {getattr(node, key)}), so the cluster "
                f"needs a secret to start: {_GIVE_A_SECRET}",
                (("nodes", i, key),),
                (("cluster", "secret"),),
            )
            return
    if config.cluster.tls == "on":
        yield Finding(
            "`cluster.tls` is on, and certificates are made from the cluster's secret, which is not there: "
            f"{_GIVE_A_SECRET}",
            (("cluster", "tls"),),
            (("cluster", "secret"),),
        )


def beyond_loopback(node: Node) -> Literal["host", "bind"] | None:
    """Return the setting by which other machines can reach `node`, None if none does. Names are not resolved."""
    if not is_loopback(node.host):
        return "host"
    return "bind" if node.bind and not is_loopback(node.bind) else None


def _nodes(config: Config) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for i, node in enumerate(config.nodes):
        first = seen.setdefault(node.name.lower(), i)
        if first != i:
            yield Finding(
                f"nodes[{i}] and nodes[{first}] are both {node.name}; each node needs a host:port of its own",
                (("nodes", i, "port"), ("nodes", i, "host")),
                (
                    ("nodes", first, "host"),
                    ("nodes", first, "port"),
                    ("nodes", i, "host"),
                    ("nodes", i, "port"),
                ),
            )


def _models(config: Config) -> Iterator[Finding]:
    both: tuple[SettingPath, ...] = (("models",), ("model",))
    if config.model is not None and config.several:
        yield Finding("give either `model` (one) or `models` (a list of several), not both", both)
    if not config.models:
        yield Finding(
            "there is no model; give `model` with its `path`, or a list of several as `models`", both
        )
    seen: dict[str, SettingPath] = {}
    for path, model in config.located_models():
        first = seen.setdefault(model.name, path) if model.name else path
        if first != path:
            yield Finding(
                f'{spell(path)} and {spell(first)} are both called "{printable(shorten(model.name))}"; '
                "give each a `name` of its own",
                ((*path, "name"), (*path, "path")),
                ((*first, "name"), (*first, "path"), (*path, "path")),
            )
    yield from _roles(config)


def _roles(config: Config) -> Iterator[Finding]:
    engines = [(*path, "engine") for path, _ in config.located_models()]
    started = [m for m in config.models if m.engine != "external"]
    if started and not any(n.role == "serve" for n in config.nodes):
        yield Finding(
            "no node has the role serve, so no engine would ever run; give one `role: serve`",
            (("nodes", 0, "role"),),
            (*_of_nodes(config, "role"), *engines),
        )
    for i, node in enumerate(config.nodes):
        if node.standby is not None and node.role != "standby":
            yield Finding(
                f"`nodes[{i}].standby` is {node.standby}, but node {node.name} has the role {node.role}; "
                "write `role: standby`, or remove it",
                (("nodes", i, "standby"),),
                (("nodes", i, "role"),),
            )
        if node.role == "standby" and config.models and not started:
            yield Finding(
                f"node {node.name} is a standby, but all engines are external, so there is nothing it could take "
                "over; write `role: gateway`",
                (("nodes", i, "role"),),
                tuple(engines),
            )


def _engine_kind(path: SettingPath, model: Model) -> Iterator[Finding]:
    kind: SettingPath = (*path, "engine")
    where = spell(path)
    if model.engine == "external":
        if not model.addresses:
            yield Finding(
                f"{where} has engine external, so it needs `addresses`: a list of `- url: http://host:port`",
                ((*path, "addresses"), kind),
            )
        for name in _MEANT_FOR_OWN_ENGINES:
            if getattr(model, name) != type(model).model_fields[name].default:
                yield Finding(
                    f"`{where}.{name}` has no effect on external engines: Shoal does not start them",
                    ((*path, name),),
                    (kind,),
                )
    else:
        uses_path = model.engine != "command" or "model" in places(model.command or ())
        if model.path is None and uses_path:
            yield Finding(
                f"{where} needs a `path`: the model's directory or its id on a hub",
                (path, kind),
                ((*path, "path"),),
            )
        if model.addresses:
            yield Finding(
                f"`{where}.addresses` is only for external engines; remove it, or write `engine: external`",
                ((*path, "addresses"),),
                (kind,),
            )
    yield from _command(path, model)
    if not model.name and (model.engine in ("command", "external") or model.path is not None):
        yield Finding(
            f"{where} needs a `name`, the one clients ask for",
            ((*path, "path"), path),
            ((*path, "name"),),
        )
    seen: set[str] = set()
    for i, address in enumerate(model.addresses):
        if address.url in seen:
            yield Finding(
                f"{address.url} is there twice in {where}.addresses", ((*path, "addresses", i, "url"),)
            )
        seen.add(address.url)


def _command(path: SettingPath, model: Model) -> Iterator[Finding]:
    """Check what only engines that are some other program have, and need."""
    where, kind = spell(path), (*path, "engine")
    if model.engine != "command":
        for name in ("command", "health"):
            if getattr(model, name) is not None:
                yield Finding(
                    f"`{where}.{name}` has no effect without `engine: command`",
                    ((*path, name),),
                    (kind,),
                )
        return
    at = (*path, "command")
    if model.command is None:
        yield Finding(
            f"{where} has engine command, so it needs a `command`: the program and its arguments, with {{port}} where "
            "its port belongs",
            (at, kind),
        )
        return
    if unknown := unknown_places(model.command):
        yield Finding(
            f"`{where}.command` has {unknown}; what can be filled in is "
            f"{', '.join(f'{{{place}}}' for place in PLACES)}",
            (at,),
        )
    elif "port" not in places(model.command):
        yield Finding(f"`{where}.command` must have {{port}} in it: {PORTS}", (at,))
    if model.args:
        yield Finding(
            f"`{where}.args` has no effect with `engine: command`: write the arguments into `command`",
            ((*path, "args"),),
            (kind,),
        )


def _model_nodes(config: Config, path: SettingPath, model: Model) -> Iterator[Finding]:
    if model.nodes is None or model.engine == "external":
        return
    known = [n.name for n in config.nodes]
    reads = (*_of_nodes(config, "host", "port", "role"), (*path, "engine"))
    for i, name in enumerate(model.nodes):
        at = (*path, "nodes", i)
        node = config.node(name)
        if node is None:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"the nodes are {shorten(', '.join(known), 200)}"
            yield Finding(
                f'`{spell(at)}` is "{printable(shorten(name))}", which is no node; {hint}', (at,), reads
            )
        elif node.role == "gateway":
            yield Finding(f"`{spell(at)}` is {name}, a gateway, which runs no engines", (at,), reads)
        elif node.role == "standby":
            yield Finding(
                f"`{spell(at)}` is {name}, a standby, which runs what the node runs that it takes over for; name "
                "nodes with the role serve",
                (at,),
                reads,
            )


def _own_settings(path: SettingPath, model: Model) -> Iterator[Finding]:
    """Refuse engine arguments and variables that Shoal sets itself."""
    if model.engine == "external":
        return
    reads = ((*path, "engine"),)
    for below, reason in reserved(model.args, model.engine):
        at = (*path, "args", *below)
        yield Finding(f"`{spell(at)}`: {reason}", (at,), reads)
    for name in model.env:
        if name in RESERVED_ENVIRONMENT:
            at = (*path, "env", name)
            yield Finding(f"`{spell(at)}` cannot be set here: {RESERVED_ENVIRONMENT[name]}", (at,), reads)


def _span(config: Config, path: SettingPath, model: Model) -> Iterator[Finding]:
    """Find what does not go together in an engine that spans nodes."""
    span, nodes = config.span_of(model), len(config.nodes_of(model))
    at: SettingPath = (*path, "nodes_per_engine")
    if model.engine == "external":
        return
    reads = (
        *_of_nodes(config, "role", "host", "port"),
        (*path, "nodes"),
        (*path, "engine"),
        ("cluster", "substrate"),
    )
    if nodes and span > nodes and config.cluster.substrate != "ray":  # there the nodes are Ray's
        yield Finding(
            f"`{spell(at)}` is {span}, and the model has {nodes} node{'s' * (nodes != 1)} with the role serve",
            (at,),
            reads,
        )
    if span > 1 and model.engine == "command":
        what = (*path, "type") if model.nodes_per_engine is None else at
        yield Finding(
            f"`{spell(what)}` asks for engines across {span} nodes, which only vLLM forms; an engine of "
            "`engine: command` runs on one node",
            (what, (*path, "engine")),
            reads,
        )
    if span > 1 and model.type in ("small", "medium"):
        yield Finding(
            f"`{spell((*path, 'type'))}` is {model.type}, one engine per GPU, and `{spell(at)}` is {span}, one engine "
            f"across {span} nodes; write `type: xlarge`, or remove one of them",
            ((*path, "type"), at),
            reads,
        )
    sizes = (("tensor_parallel", "tensor-parallel-size"), ("pipeline_parallel", "pipeline-parallel-size"))
    for setting, option in sizes:
        names = {f"--{option}", option.replace("-", "_"), option}
        given = [str(a).partition("=")[0] for a in model.args]
        if getattr(model, setting) is not None and names & set(given):
            yield Finding(
                f"`{spell((*path, setting))}` and `args` both say the {option.replace('-', ' ')}; keep one",
                ((*path, setting),),
                ((*path, "args"),),
            )


def _replicas(path: SettingPath, model: Model) -> Iterator[Finding]:
    at = (*path, "replicas")
    bounds = model.replicas.bounds
    if bounds is not None and bounds[0] > bounds[1]:
        yield Finding(
            f"`{spell((*at, 'min'))}` is {bounds[0]} and `{spell((*at, 'max'))}` is {bounds[1]}; the least number of "
            "engines must not be above the largest",
            ((*at, "min"), (*at, "max")),
        )
    if model.replicas.down_after < model.replicas.up_after:
        yield Finding(
            f"`{spell((*at, 'down_after'))}` is {seconds(model.replicas.down_after)}; it must be at least "
            f"`{spell((*at, 'up_after'))}`, which is {seconds(model.replicas.up_after)}, or engines would come and go",
            ((*at, "down_after"), (*at, "up_after")),
        )


def _on_ray(config: Config, path: SettingPath, model: Model) -> Iterator[Finding]:
    """Find what a cluster on Ray cannot do: its nodes have no names in the file."""
    substrate: SettingPath = ("cluster", "substrate")
    bounds = model.replicas.bounds
    if bounds is not None and model.min_engines > bounds[1]:
        yield Finding(
            f"`{spell((*path, 'min_engines'))}` is {model.min_engines}, and `{spell((*path, 'replicas', 'max'))}` "
            f"is {bounds[1]}: there would never be as many engines",
            ((*path, "min_engines"), (*path, "replicas", "max")),
            (substrate,),
        )
    if model.nodes is not None:
        yield Finding(
            f"`{spell((*path, 'nodes'))}` names nodes, and on Ray the nodes are Ray's; remove it, and say how many "
            f"engines there are under `{spell((*path, 'replicas'))}`",
            ((*path, "nodes"),),
            (substrate,),
        )
    if model.engine == "external":
        return
    if model.type == "xlarge" and model.nodes_per_engine is None:
        yield Finding(
            f"`{spell((*path, 'type'))}` asks for one engine across all nodes, and on Ray nodes come and go; say with "
            f"`{spell((*path, 'nodes_per_engine'))}` how many nodes each engine spans",
            ((*path, "type"),),
            (substrate, (*path, "nodes_per_engine")),
        )
    if model.executor == "ray" and (model.nodes_per_engine or 1) > 1:
        yield Finding(
            f"`{spell((*path, 'executor'))}` would start a Ray of the engine's own on nodes of Ray; remove it, vLLM "
            "starts the processes itself (`mp`)",
            ((*path, "executor"),),
            (substrate, (*path, "nodes_per_engine")),
        )


def _gpus(config: Config) -> Iterator[Finding]:
    """Find nodes whose own list of GPUs is too short for what the models ask for on them."""
    for i, node in enumerate(config.nodes):
        if not node.gpus:
            continue
        # A standby must hold what any one node runs that it may take over for; the greediest is shown.
        asking = max(map(_asking, config.duties_of(node).values()), key=lambda asked: sum(asked.values()))
        need = sum(asking.values())
        if need > len(node.gpus):
            who = ", ".join(f"{name} {count}" for name, count in asking.items())
            whose = "its models" if node.role == "serve" else "the models it may have to run"
            yield Finding(
                f"node {node.name} has {len(node.gpus)} GPUs in `gpus`, {whose} ask for {need} "
                f"({shorten(who)}); "
                "lower `gpus_per_engine` or `engines_per_node`, or allow sharing with `share_gpus: true`",
                (("nodes", i, "gpus"),),
                (
                    *_of_nodes(config, "host", "port", "role"),
                    *((*path, key) for path, _ in config.located_models() for key in _GPU_SETTINGS),
                ),
            )


def _asking(models: Iterable[Model]) -> dict[str, int]:
    """Return how many GPUs each model wants for itself alone, where the file says so."""
    return {
        m.name: (m.engines_per_node or 1) * m.gpus_per_engine
        for m in models
        if m.gpus_per_engine and not m.share_gpus
    }


def _engine_ports(config: Config) -> Iterator[Finding]:
    first, last = config.engines.ports
    at: SettingPath = ("engines", "ports")
    if first > last:
        yield Finding(
            f"`engines.ports` is [{first}, {last}]; the first port must not be above the last", (at,)
        )
    for i, node in enumerate(config.nodes):
        if first <= node.port <= last:
            yield Finding(
                f"`nodes[{i}].port` is {node.port}, which is among the engines' ports "
                f"(`engines.ports` {first} to {last}); move one of them",
                (("nodes", i, "port"), at),
                (at,),
            )


def _timers(config: Config) -> Iterator[Finding]:
    for rule in INEQUALITIES:
        if not rule.applies(config) or rule.holds(config):
            continue
        left, right = rule.sides(config)
        bound = ("more than" if rule.strict else "at least") if rule.upwards else "less than"
        bound = "at most" if not rule.upwards and not rule.strict else bound
        yield Finding(
            f"`{spell(rule.left)}` is {seconds(left)}; it must be {bound} {rule.right}, which is "
            f"{seconds(right)}, or {rule.reason}",
            (rule.left, *rule.settings),
            rule.settings,
        )


def _of_nodes(config: Config, *keys: str) -> list[SettingPath]:
    """Return the paths of these settings of all nodes."""
    return [("nodes", i, key) for i in range(len(config.nodes)) for key in keys]
