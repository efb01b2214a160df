// The last 15 minutes as lines.

import { Chart } from "../chart.js";
import { el } from "../dom.js";
import { listen, live } from "../live.js";
import { duration, number, percent, t } from "../words.js";

const MOST_NODES = 12; // lines of one chart

export function show(root) {
  const grid = el("div", { class: "grid" });
  const one = (key, of) => ({ name: t(key), of });
  const per = (text) => (value) => t(text, { value: number(value, value < 10 ? 1 : 0) });
  const fixed = [
    new Chart(t("chart_tokens"), [one("generated", (p) => p.tokens), one("prompt", (p) => p.prompt_tokens)], per("per_second")),
    new Chart(t("chart_requests"), [one("answered", (p) => p.requests), one("failed", (p) => p.failed)], per("per_second")),
    new Chart(t("chart_ttft"), [one("p50", (p) => p.p50), one("p99", (p) => p.p99)], duration),
    new Chart(t("chart_queue"), [one("queue", (p) => p.waiting), one("open", (p) => p.open)], number),
    new Chart(t("chart_kv"), [one("mean", (p) => p.kv), one("fullest", (p) => p.kv_max)], percent, 1),
  ];
  grid.append(...fixed.map((chart) => chart.root));
  root.append(el("p", { class: "quiet" }, t("charts_text")), grid);
  let machines = [];
  let names = "";

  function fill() {
    const points = [...live.points.values()].sort((a, b) => a.t - b.t);
    const nodes = [...new Set(points.flatMap((point) => Object.keys(point.nodes)))].sort().slice(0, MOST_NODES);
    if (nodes.join() !== names) {
      names = nodes.join();
      for (const chart of machines) chart.root.remove();
      const lines = (place) => nodes.map((node) => ({ name: node, of: (point) => point.nodes[node]?.[place] }));
      machines = [new Chart(t("chart_cpu"), lines(0), percent, 1), new Chart(t("chart_memory"), lines(1), percent, 1)];
      if (points.some((point) => Object.values(point.nodes).some(([, , gpu]) => gpu !== null))) {
        machines.push(new Chart(t("chart_gpu"), lines(2), percent, 1));
      }
      grid.append(...machines.map((chart) => chart.root));
    }
    for (const chart of [...fixed, ...machines]) chart.draw(points);
  }

  if (live.points.size) fill();
  return listen((kind) => kind === "points" && fill());
}
