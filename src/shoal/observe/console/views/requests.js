// Requests that are open now.

import { askJson } from "../api.js";
import { el, keyed, say } from "../dom.js";
import { bytes, duration, number, t } from "../words.js";

const EVERY = 1000; // ms

const COLUMNS = {
  age: (row) => duration(row.age),
  model: (row) => row.model,
  engine: (row) => row.engine || t("waits_for_engine"),
  node: (row) => row.node,
  client: (row) => (row.key ? `${row.client} (${row.key})` : row.client),
  path: (row) => row.path,
  sent: (row) => (row.stream ? t("events_sent", { count: number(row.events), size: bytes(row.sent) }) : bytes(row.sent)),
  way: (row) => t("way_of", { attempts: number(row.attempts), resumes: number(row.resumes) }),
};

export function show(root, _, signal) {
  const names = Object.keys(COLUMNS);
  const body = el("tbody");
  const caption = el("caption");
  const table = el("table", {}, caption,
    el("thead", {}, el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, t(`column_${name}`))))), body);
  const problem = el("p", { class: "problem", role: "status" });
  root.append(el("p", { class: "quiet" }, t("requests_text")), problem, table);

  function fill(rows) {
    say(caption, rows.length ? t("requests_open", { count: number(rows.length) }) : t("requests_none"));
    keyed(body, rows.map((row, i) => [i, row]), ([i]) => i, () => el("tr", {}, ...names.map((name) => el("td", { "data-label": t(`column_${name}`) }, el("span")))),
      (element, [, row]) => names.forEach((name, i) => say(element.children[i].firstChild, COLUMNS[name](row))));
  }

  async function look() {
    while (!signal.aborted) {
      try {
        if (!document.hidden) fill(await askJson("shoal/v1/requests", { signal }));
        say(problem, "");
      } catch (error) {
        if (!signal.aborted) say(problem, error.message);
      }
      await new Promise((resolve) => { setTimeout(resolve, EVERY); });
    }
  }
  look();
}
