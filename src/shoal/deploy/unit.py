"""The systemd unit of a node. Pure."""

from __future__ import annotations

from dataclasses import dataclass

# What running requests may take beyond `recovery.drain_timeout`: engines that end, files that are closed. Seconds.
_STOP_MARGIN = 60


@dataclass(frozen=True, slots=True)
class UnitOf:
    """What a node's unit is about.

    Attributes:
        node: ``host:port``.
        prefix: directory of the installation; absolute.
        home: directory of the node's files; absolute.
        user: whom it runs as.
        drain_timeout: the configuration's ``recovery.drain_timeout``, seconds.
    """

    node: str
    prefix: str
    home: str
    user: str
    drain_timeout: float


def unit_name(node: str) -> str:
    """Return the name of a node's unit: a machine has one node for each port."""
    return f"shoal-{node.rpartition(':')[2]}.service"


def start_command(prefix: str, home: str, node: str) -> str:
    """Return the shell command that becomes a node process.

    The link ``current`` is followed once, here: a process never sees half of one version and half of another, however
    long after an update it imports its next module.
    """
    python = f'"$(readlink -f {_quoted(prefix)}/current)/bin/python"'
    return f"exec {python} -m shoal.serve --config {_quoted(home)}/cluster.yaml --node {_quoted(node)}"


def unit_text(about: UnitOf) -> str:
    """Return the text of a node's unit file."""
    # systemd reads % and $ itself, and " and \ inside of quotes.
    command = start_command(about.prefix, about.home, about.node)
    for special, written in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        command = command.replace(special, written)
    home = about.home.replace("%", "%%")
    return f"""# Made by `shoal deploy`, which writes it anew. Changes of your own belong into
# `systemctl edit {unit_name(about.node)}`.
[Unit]
Description=Shoal node {about.node.replace("%", "%%")}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
User={about.user}
EnvironmentFile={home}/environment
ExecStart=/bin/sh -c "{command}"
ExecReload=/bin/kill -HUP $MAINPID

# Engines outlive the node process: a restart, an update or a crash of it reloads no model. A stop ends them.
KillMode=process
KillSignal=SIGTERM
RestartKillSignal=SIGUSR2
# An engine that ran out of memory is restarted by the node; systemd would stop all of the unit.
OOMPolicy=continue

Restart=on-failure
RestartSec=2
# 2: the configuration or the machine is wrong, trying again changes nothing.
RestartPreventExitStatus=2
WatchdogSec=60
TimeoutStartSec=300
TimeoutStopSec={about.drain_timeout * 2 + _STOP_MARGIN:.0f}

LimitNOFILE=1048576
LimitMEMLOCK=infinity
TasksMax=infinity

# What vLLM bears. Left out on purpose: PrivateDevices and ProtectClock (they hide GPUs), PrivateTmp (engines that
# outlive the process would be in another /tmp than the next one), MemoryDenyWriteExecute (Triton and torch compile).
NoNewPrivileges=yes
ProtectSystem=full
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectHostname=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

[Install]
WantedBy=multi-user.target
"""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
