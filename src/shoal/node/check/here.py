"""Checks of this machine alone: is it in the file, are its ports free, does it have what the models need."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping

import psutil

from shoal.config import Config, Node
from shoal.config.hosts import is_loopback
from shoal.engine.ports import NoFreePortError, reserve
from shoal.models.errors import ModelError
from shoal.node import ports
from shoal.node.check.facts import ModelFiles
from shoal.node.check.findings import Finding, failure, ok, warning
from shoal.node.errors import StartError
from shoal.node.exposing import disks_of
from shoal.node.hardware import seen
from shoal.node.identity import listen_address, local_nodes, resolve
from shoal.node.known import profile_of
from shoal.node.plan_groups import PlanInput
from shoal.node.planner import plan_cluster

_GIB = 1024**3
MIN_MEMORY = 16 * _GIB
"""Memory below which a machine is warned of, bytes: what the promise of the first release asks for."""

MIN_DISK = 10 * _GIB
"""Free space for logs and state below which it is warned of, bytes."""


def names(config: Config) -> Iterator[Finding]:
    """Check that the names of the nodes stand for addresses."""
    unknown = [node.host for node in config.nodes if not resolve(node.host)]
    for host in unknown:
        yield failure(
            "names",
            f"the name {host} stands for no address on this machine",
            f"correct `host` in the file, or make {host} known (DNS, /etc/hosts)",
        )
    if not unknown:
        yield ok("names", f"all {len(config.nodes)} nodes have addresses")


def free_ports(config: Config, node: Node) -> Iterator[Finding]:
    """Check that the node could listen."""
    address = listen_address(node)
    try:
        ports.require_free(node.name, address, node.port)
    except StartError as error:
        text, _, fix = str(error).partition(". ")
        yield failure("ports", text, fix or "stop that program, or give the node another `port`")
    else:
        if _udp_free(address, node.port):
            yield ok("ports", f"TCP and UDP port {node.port} are free")
        else:
            yield failure(
                "ports",
                f"UDP port {node.port} is taken; heartbeats need it",
                f"find out by whom (`ss -ulpn sport = :{node.port}`) and stop it, or give the node another `port`",
            )
    first, last = config.engines.ports
    try:
        reserve(address, first, last, node.name).release()
    except NoFreePortError:
        yield failure(
            "ports",
            f"none of the ports {first} to {last} for engines is free",
            "set `engines.ports` to a range that is free on every node",
        )


def _udp_free(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def secret(config: Config) -> Iterator[Finding]:
    """Check that nodes on several machines have a secret."""
    if config.cluster.secret:
        yield ok("secret", "there is a cluster secret")
    elif not all(is_loopback(a) for n in config.nodes for a in resolve(n.host)):
        yield failure(
            "secret",
            "nodes on several machines need a secret, and there is none",
            "set SHOAL_SECRET, or `cluster.secret`, to the same value on every node (`openssl rand -hex 32`)",
        )


def resources(
    config: Config, node: Node, memory: int | None = None, disk_free: int | None = None
) -> Iterator[Finding]:
    """Check memory and disks.

    Args:
        config: the configuration.
        node: this node.
        memory: bytes of the machine, as if there were so many.
        disk_free: bytes that are free, likewise.
    """
    memory = psutil.virtual_memory().total if memory is None else memory
    if memory < MIN_MEMORY:
        yield warning(
            "memory",
            f"this machine has {memory / _GIB:.1f} GiB of memory, less than {MIN_MEMORY / _GIB:.0f} GiB",
            "use a smaller or quantised model here, or make the node a gateway (`role: gateway`)",
        )
    else:
        yield ok("memory", f"{memory / _GIB:.0f} GiB of memory")
    path = disks_of(config, node.name)["state"]
    there = next(p for p in (path, *path.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        yield failure(
            "disk", f"{path} cannot be written", "set `state_dir` to a directory that this user may write"
        )
        return
    free = psutil.disk_usage(str(there)).free if disk_free is None else disk_free
    if free < MIN_DISK:
        yield warning(
            "disk",
            f"{free / _GIB:.1f} GiB are free where {path} is",
            f"make room ({MIN_DISK / _GIB:.0f} GiB for logs and state), or set `state_dir` to another disk",
        )
    else:
        yield ok("disk", f"{free / _GIB:.0f} GiB free for logs and state")


def models_there(models: tuple[ModelFiles, ...]) -> Iterator[Finding]:
    """Check that the files of the models are here."""
    for model in models:
        if model.problem:
            yield failure(
                "model",
                f"model {model.name}: {model.problem}",
                "copy the model's directory to this machine, to the same path as on the others (`rsync -a`)",
            )
        elif not model.files:
            yield failure(
                "model", f"model {model.name}: {model.place} is empty", "copy the model's files there"
            )
        else:
            size = sum(size for size, _ in model.files.values())
            yield ok(
                "model",
                f"model {model.name}: {len(model.files)} files, {size / _GIB:.2f} GiB in {model.place}",
            )


def fits(config: Config, node: Node, env: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Check that the engines of this node fit into its memory."""
    profiles, unknown = {}, {}
    for model in config.models:
        if model.engine == "vllm":
            try:
                profiles[model.name] = profile_of(model, env)
            except ModelError as error:
                unknown[model.name] = str(error)
    made = plan_cluster(PlanInput(config, seen(config, env), profiles, unknown))
    refusals = [r for r in made.refusals if node.name in r.nodes]
    for refusal in refusals:
        nearest = "; or ".join(refusal.nearest) or "see `shoal plan` for what would fit"
        yield failure("fit", refusal.sentence, nearest)
    if not refusals:
        engines = next((n.engines for n in made.nodes if n.name == node.name), ())
        yield ok(
            "fit", f"{len(engines)} engine{'s' * (len(engines) != 1)} on this node, as `shoal plan` counts"
        )


def here(config: Config, node: Node) -> list[Finding]:
    """Return what is found without the others and without reading models."""
    elsewhere = [n.name for n in local_nodes(config) if n.name != node.name]
    also = f" ({', '.join(elsewhere)} too)" if elsewhere else ""
    return [
        ok("node", f"this is {node.name}, role {node.role}; its machine is in the file{also}"),
        *names(config),
        *secret(config),
        *free_ports(config, node),
        *resources(config, node),
    ]
