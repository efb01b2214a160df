"""What the parts of a node process are told at their start, out of the configuration. Pure."""

from __future__ import annotations

import zlib
from pathlib import Path

from shoal.cluster.detector import Timers as MembershipTimers
from shoal.cluster.group_types import GroupTimers
from shoal.cluster.membership import MembershipSettings
from shoal.config import Config, Node
from shoal.engine.interfaces import interface_of
from shoal.gateway.messages import Credentials, WorkerSettings
from shoal.node.identity import resolve
from shoal.node.parts import PartSettings
from shoal.node.reconcile import Timers, restart_delay

_FORM = 1024 * 1024
"""Bytes of a form around a file that is uploaded, at most."""


def worker_settings(
    config: Config, node: Node, listen: str, control_socket: Path, authorities: dict[str, Credentials]
) -> WorkerSettings:
    """Return the settings of every gateway worker; ``index`` and ``workers`` are filled in by `Workers`.

    Args:
        config: the configuration.
        node: this node.
        listen: numeric address it listens on.
        control_socket: unix socket of the control app.
        authorities: for connections to engines, see `Certificates.clients`.
    """
    gateway, admission = config.gateway, config.admission
    return WorkerSettings(
        index=0,
        workers=0,
        node=node.name,
        host=listen,
        port=node.port,
        control_socket=str(control_socket),
        max_body=gateway.max_body,
        max_header=gateway.max_header,
        max_upload=config.batch.max_file + _FORM,
        connect_timeout=gateway.connect_timeout,
        response_timeout=config.communication.timeout,
        idle_timeout=gateway.idle_timeout,
        header_timeout=gateway.header_timeout,
        keepalive=gateway.keepalive,
        max_attempts=gateway.max_attempts,
        max_connections=gateway.max_connections,
        resume=config.recovery.resume,
        resume_buffer=config.recovery.resume_buffer,
        max_resumes=config.recovery.max_resumes,
        max_queued=admission.max_queued,
        max_queued_bytes=admission.max_queued_bytes,
        max_wait=admission.max_wait,
        batch_share=admission.batch_share,
        # Far apart, so that the turns of several nodes' workers do not begin with the same engine.
        seed=zlib.crc32(node.name.encode()) % 1009,
        allow_override=config.routing.allow_override,
        session_header=config.routing.session_header,
        share_prefixes=True,
        certificate=gateway.tls.certificate if gateway.tls else None,
        key=gateway.tls.key if gateway.tls else None,
        authorities=authorities,
        explain=gateway.explain,
        explain_slow=gateway.explain_slow,
        explain_kept=gateway.explain_kept,
        trace_sample=config.tracing.sample,
        trace_endpoint=config.tracing.endpoint,
        trace_service=config.tracing.service,
    )


def membership_settings(config: Config, node: Node, listen: str) -> MembershipSettings:
    """Return the settings of the membership of `node`, which listens on the numeric address `listen`."""
    cluster = config.cluster
    return MembershipSettings(
        name=node.name,
        bind=listen,
        port=node.port,
        peers=tuple((n.host, n.port) for n in config.nodes),
        cluster=cluster.name,
        secret=cluster.secret,
        timers=MembershipTimers(
            interval=cluster.heartbeat_interval,
            suspect_after=cluster.suspect_after,
            confirm_timeout=cluster.confirm_timeout,
            leave_after=cluster.leave_after,
        ),
    )


def part_settings(config: Config, node: Node, listen: str, advertised: str) -> PartSettings:
    """Return the settings of the parts of engines across nodes that `node` takes.

    Args:
        config: the configuration.
        node: this node.
        listen: numeric address it listens on.
        advertised: numeric address under which others reach it.
    """
    address = next(iter(resolve(node.fabric)), node.fabric) if node.fabric else advertised
    timers = rule_timers(config)
    return PartSettings(
        node=node.name,
        state_dir=config.state_dir_of(node.name),
        listen=listen,
        address=address,
        interface=interface_of(address),
        advertised=advertised,
        ports=config.engines.ports,
        timers=GroupTimers(
            join=20 * config.cluster.heartbeat_interval,
            again=2 * config.cluster.heartbeat_interval,
            grace=20 * config.cluster.heartbeat_interval,
            healthy_after=timers.healthy_after,
            delay=lambda failures: restart_delay(node.name, failures, timers),
        ),
        # Of a file's nodes another one may take over the place at once; on Ray its resources are held for it till then.
        finishes=config.cluster.substrate == "ray",
    )


def rule_timers(config: Config) -> Timers:
    """Return the times that the reconcile rules go by."""
    recovery = config.recovery
    return Timers(
        start_timeout=config.engines.start_timeout,
        restart_delay=recovery.restart_delay,
        restart_delay_max=recovery.restart_delay_max,
        healthy_after=recovery.healthy_after,
        unhealthy_after=3 * config.engines.probe_timeout,
        stall_timeout=recovery.stall_timeout,
    )
