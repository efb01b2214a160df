"""`shoal monitor init`: everything that Prometheus and Grafana need to show a cluster."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from shoal.cluster.scrape_key import scrape_key
from shoal.config import Config, ConfigError, load
from shoal.files import PRIVATE, write_whole
from shoal.observe import prometheus, rules
from shoal.observe.panels import BOARDS

app = typer.Typer(help="Prometheus and Grafana for a cluster.", no_args_is_help=True)

_TARGETS = "prometheus/targets/shoal.json"
_KEY = "metrics.key"


@app.callback()
def _group() -> None:
    """Prometheus and Grafana for a cluster."""


@app.command("init")
def init(
    directory: Annotated[Path, typer.Argument(help="Where to write it; made if it does not exist.")],
    config: Annotated[Path, typer.Option("--config", "-c", help="The cluster's file.")],
    runbook: Annotated[
        str, typer.Option("--runbook", help="URL of your copy of docs/runbook.md, for the links of alerts.")
    ] = "docs/runbook.md",
    prometheus_url: Annotated[
        str, typer.Option("--prometheus", help="URL at which Grafana reaches Prometheus.")
    ] = "http://127.0.0.1:9090",
) -> None:
    """Write a scrape configuration, recording and alert rules, Grafana's provisioning and dashboards.

    Run it again after an update of Shoal: all files are made anew. Exit status: 0, 2 for a file with a mistake or
    without the extra `monitor`.
    """
    try:
        settings = load(config).config
        files = generated(settings, directory.resolve(), runbook, prometheus_url)
    except ConfigError as error:
        typer.echo(f"shoal monitor: {error}", err=True)
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("grafana_foundation_sdk"):
            raise
        typer.echo(
            "shoal monitor: dashboards need the extra `monitor`: pip install 'shoal[monitor]'", err=True
        )
        raise typer.Exit(2) from None
    for name, text in files.items():
        write(directory / name, text, secret=name.endswith(_KEY))
    typer.echo(_told(settings, directory.resolve()))


def generated(config: Config, directory: Path, runbook: str, prometheus_url: str) -> dict[str, str]:
    """Return the files by their names.

    Args:
        config: the cluster's.
        directory: where they will be; Grafana wants to know.
        runbook: URL of the runbook.
        prometheus_url: URL of Prometheus.

    Raises:
        ModuleNotFoundError: Grafana's SDK is not installed.
    """
    from shoal.observe import grafana  # noqa: PLC0415 - the extra `monitor`

    keys, cluster = config.gateway.keys, config.cluster
    key = scrape_key(cluster.name, cluster.secret) if cluster.secret else None
    closed = keys.wanted and keys.metrics == "admin" and key is not None
    files = {
        "prometheus/prometheus.yml": _yaml(
            prometheus.configuration(tls=config.gateway.tls is not None, key_file=_KEY if closed else None)
        ),
        _TARGETS: prometheus.targets(cluster.name, (node.name for node in config.nodes)),
        "prometheus/rules/recording.yml": _yaml(rules.recording_rules()),
        "prometheus/rules/alerts.yml": _yaml(rules.alert_rules(runbook)),
        "grafana/provisioning/datasources/shoal.yaml": _yaml(grafana.datasources(prometheus_url)),
        "grafana/provisioning/dashboards/shoal.yaml": _yaml(
            grafana.providers(str(directory / "grafana/dashboards"))
        ),
        **{f"grafana/dashboards/{board.uid}.json": grafana.dashboard_json(board) for board in BOARDS},
    }
    if closed and key is not None:
        files[f"prometheus/{_KEY}"] = key
    return files


def write(path: Path, text: str, *, secret: bool = False) -> None:
    """Write a file whole, so that nobody sees half of it; a secret one for its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode(), mode=PRIVATE if secret else 0o644)


def _yaml(data: dict[str, Any]) -> str:
    out = StringIO()
    yaml = YAML()
    yaml.width = 10_000  # an expression stays on its line
    yaml.dump(data, out)
    return "# Made by `shoal monitor init`, which writes it anew each time.\n" + out.getvalue()


def _told(config: Config, directory: Path) -> str:
    current = config.monitoring.targets_file == directory / _TARGETS
    hint = (
        ""
        if current
        else "\nTo have nodes keep the list of targets current, set this in the cluster's file:\n"
        f"  monitoring: {{targets_file: {directory / _TARGETS}}}\n"
    )
    return f"""Written to {directory}: configuration, {len(rules.ALERTS)} alerts, {len(BOARDS)} dashboards.

  prometheus --config.file={directory}/prometheus/prometheus.yml
  GF_PATHS_PROVISIONING={directory}/grafana/provisioning grafana server
{hint}"""
