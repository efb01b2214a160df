"""Grafana's dashboards and provisioning, built from `shoal.observe.panels` with Grafana's Foundation SDK.

The SDK is in the extra ``monitor``: nothing else of Shoal imports this module.
"""

from __future__ import annotations

import json
from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableRefresh,
    VariableSort,
)

from shoal.observe.panels import Board, Panel

DATASOURCE = "shoal-prometheus"
"""uid of the data source that is provisioned."""

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDE, _NARROW = (12, 8), (6, 4)  # columns of 24, rows


def dashboard_json(board: Board) -> str:
    """Return a dashboard as Grafana takes it."""
    made = json.loads(json.dumps(_dashboard(board).build(), cls=JSONEncoder))
    # The SDK's models are those of Grafana 10.1; later ones know these two no more, and 10.1 does without.
    made.pop("style", None)
    for variable in made["templating"]["list"]:
        variable.pop("id", None)
    return json.dumps(made, indent=2, sort_keys=True) + "\n"


def _dashboard(board: Board) -> dashboard.Dashboard:
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .tags(["shoal"])
        .readonly()
        .timezone("browser")
        .refresh("10s")
        .time("now-1h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for name, label, query in board.variables:
        made.with_variable(
            dashboard.QueryVariable(name)
            .label(label)
            .datasource(_SOURCE)
            .query(query)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    made.link(
        dashboard.DashboardLink("Shoal").tags(["shoal"]).as_dropdown(True).keep_time(True).include_vars(True)
    )
    number = 0
    for title, panels in board.rows.items():
        number += 1
        made.with_row(dashboard.Row(title).id(number))
        for panel in panels:
            number += 1
            made.with_panel(_panel(panel, number))
    return made


def _panel(panel: Panel, number: int) -> stat.Panel | timeseries.Panel:
    made: Any
    if panel.kind == "stat":
        made = (
            stat.Panel()
            .graph_mode(BigValueGraphMode.AREA)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        )
        width, height = _NARROW
    else:
        made = (
            timeseries.Panel()
            .line_width(1)
            .fill_opacity(10)
            .show_points(VisibilityMode.NEVER)
            .legend(
                common.VizLegendOptions()
                .show_legend(True)
                .display_mode(LegendDisplayMode.TABLE)
                .placement(LegendPlacement.BOTTOM)
                .calcs(["lastNotNull", "max"])
            )
        )
        width, height = _WIDE
    made.id(number).title(panel.title).description(panel.text).unit(panel.unit).datasource(_SOURCE)
    made.span(width).height(height)
    if panel.unit == "percentunit":
        made.min(0).max(1)
    elif panel.kind != "stat":
        made.min(0)
    for ref, (expr, legend) in zip(ascii_uppercase, panel.queries, strict=False):
        made.with_target(
            prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(ref).datasource(_SOURCE)
        )
    return made  # type: ignore[no-any-return]


def datasources(url: str) -> dict[str, Any]:
    """Return the provisioning file of the data source, plain data.

    Args:
        url: of Prometheus.
    """
    source = {
        "name": "Prometheus (Shoal)",
        "uid": DATASOURCE,
        "type": "prometheus",
        "access": "proxy",
        "url": url,
    }
    return {"apiVersion": 1, "datasources": [source | {"jsonData": {"timeInterval": "10s"}}]}


def providers(folder: str) -> dict[str, Any]:
    """Return the provisioning file of the dashboards, plain data.

    Args:
        folder: where they are.
    """
    options = {"path": folder, "foldersFromFilesStructure": False}
    provider = {"name": "shoal", "folder": "Shoal", "type": "file", "options": options}
    return {"apiVersion": 1, "providers": [provider | {"allowUiUpdates": False, "updateIntervalSeconds": 30}]}
