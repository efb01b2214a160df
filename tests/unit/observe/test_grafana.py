"""Dashboards are what Grafana takes, and show metrics that exist."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from jsonschema import Draft7Validator

from shoal.observe.catalog import METRICS
from shoal.observe.grafana import dashboard_json
from shoal.observe.panels import BOARDS, Board

UNITS = {"none", "short", "reqps", "percentunit", "s", "bytes", "Bps", "pps"}
OTHERS = {"up", "process_cpu_seconds_total"}
SCHEMAS = Path(__file__).with_name("grafana_schemas")


def panels(board: Board) -> list[dict[str, Any]]:
    return [p for p in json.loads(dashboard_json(board))["panels"] if p["type"] != "row"]


def filled(expr: str) -> str:
    """Return an expression without Grafana's variables."""
    return re.sub(r"\$(cluster|node|model|engine)", ".*", expr).replace("$__rate_interval", "1m")


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.uid)
def test_panels_have_all_that_people_need(board: Board):
    found = json.loads(dashboard_json(board))
    assert (found["uid"], found["title"], found["editable"]) == (board.uid, board.title, False)
    ids = [p["id"] for p in found["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels(board):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        assert len({t["refId"] for t in panel["targets"]}) == len(panel["targets"])
        assert all(t["legendFormat"] for t in panel["targets"])


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.uid)
def test_panels_do_not_overlap(board: Board):
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(dashboard_json(board))["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.uid)
def test_grafanas_own_model_of_a_dashboard_takes_them_and_gives_them_back(board: Board):
    made = json.loads(dashboard_json(board))
    again = json.loads(json.dumps(Dashboard.from_json(made), cls=JSONEncoder))
    assert again["panels"] == made["panels"]
    assert again["uid"] == made["uid"]


def schema(name: str, part: str) -> Draft7Validator:
    """Return what judges by a part of one of Grafana's published schemas."""
    document = json.loads((SCHEMAS / f"{name}.jsonschema.json").read_text())
    return Draft7Validator(document | {"$ref": f"#/definitions/{part}"})


def mistakes(made: dict[str, Any]) -> Iterator[str]:
    """Yield what the schemas say against a dashboard, its panels and their queries."""
    whole, query = schema("dashboard", "Dashboard"), schema("prometheus", "Dataquery")
    options, custom = schema("timeseries", "Options"), schema("timeseries", "FieldConfig")
    found = [*whole.iter_errors(made)]
    for panel in made["panels"]:
        for target in panel.get("targets", ()):
            found += query.iter_errors(target)
        if panel["type"] == "timeseries":
            found += options.iter_errors(panel["options"])
            found += custom.iter_errors(panel["fieldConfig"]["defaults"]["custom"])
    for error in found:
        yield f"{error.json_path}: {error.message[:200]}"


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.uid)
def test_they_are_what_grafanas_published_schemas_ask_for(board: Board):
    made = json.loads(dashboard_json(board))
    assert list(mistakes(made)) == []
    made["panels"][-1]["targets"][0]["expr"] = 7
    made["panels"][-1]["gridPos"]["h"] = "tall"
    made["timezon"] = "utc"
    told = sorted(mistakes(made))
    assert len(told) >= 3, "and they see what is wrong"
    for part in ("'timezon' was unexpected", "7 is not of type 'string'"):
        assert any(part in text for text in told), told


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.uid)
def test_expressions_parse_and_name_metrics_that_exist(board: Board):
    variables = {name for name, *_ in board.variables}
    for panel in panels(board):
        for target in panel["targets"]:
            expr = target["expr"]
            assert set(re.findall(r"\$(\w+)", expr)) <= variables | {"__rate_interval"}, expr
            promql_parser.parse(filled(expr))
            for name in re.findall(r"([a-z0-9_:]+)(?=\{)", expr):
                known = re.sub(r"_(total|bucket|sum|count)$", "", name) in METRICS or name in METRICS
                assert known or name in OTHERS or name.startswith("vllm:"), name
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            for label in labels:
                assert re.search(rf"\b{label}\b", expr) or label in _labels(expr), (label, expr)


def _labels(expr: str) -> set[str]:
    names = (re.sub(r"_(total|bucket|sum|count)$", "", n) for n in re.findall(r"(shoal_[a-z_]+)", expr))
    own = {label for n in names for label in METRICS.get(n, METRICS["shoal_isolated"]).labels}
    return own | {"node", "cluster"}


def test_titles_and_ids_are_different():
    assert len({b.uid for b in BOARDS}) == len({b.title for b in BOARDS}) == len(BOARDS)
    for board in BOARDS:
        assert all(a != b for a, b in pairwise(p["title"] for p in panels(board)))
