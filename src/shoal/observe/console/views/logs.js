// The log of an engine or a node: its end, and what comes after it.

import { askJson } from "../api.js";
import { el, say } from "../dom.js";
import { listen, live } from "../live.js";
import { t } from "../words.js";

const EVERY = 1000; // ms
const LINES = 500; // that are asked for at first
const MOST = 512 * 1024; // characters that are kept

function names() {
  const found = [];
  for (const member of live.state?.members ?? []) {
    const engines = new Set([...member.engines.map((one) => one.id), ...member.seats.map((one) => one.engine)]);
    found.push(...[...engines].map((engine) => `${member.name}/${engine}`));
  }
  return [...found.sort(), ...(live.state?.members ?? []).map((member) => member.name)];
}

export function show(root, given, signal) {
  const select = el("select", { id: "log-of" });
  const following = el("input", { type: "checkbox", id: "log-follow", checked: true });
  const problem = el("p", { class: "problem", role: "status" });
  const box = el("pre", { class: "log", tabindex: "0", role: "log", "aria-label": t("view_logs"), "aria-live": "off" });
  root.append(
    el("div", { class: "row" },
      el("div", { class: "field grow" }, el("label", { for: "log-of" }, t("engine_or_node")), select),
      el("label", {}, following, t("follow"))),
    problem, box,
  );
  let wanted = given.get("of") ?? "";
  let cursor = "";

  function offer() {
    const known = names();
    if (!wanted && known.length) [wanted] = known;
    if (wanted && !known.includes(wanted)) known.push(wanted);
    if ([...select.options].map((option) => option.value).join("\n") === known.join("\n")) return;
    select.replaceChildren(...known.map((name) => el("option", { value: name }, name)));
    select.value = wanted;
  }

  function add(lines) {
    if (!lines.length) return;
    box.append(`${lines.join("\n")}\n`);
    box.normalize();
    const text = box.firstChild;
    if (text.length > MOST) text.deleteData(0, text.length - MOST);
    if (following.checked) box.scrollTop = box.scrollHeight;
  }

  async function ask() {
    const asked = wanted;
    const query = new URLSearchParams({ of: asked, follow: 1, ...(cursor ? { cursor } : { lines: LINES }) });
    try {
      const told = await askJson(`shoal/v1/console/log?${query}`, { signal });
      if (asked !== wanted) return;
      cursor = told.cursor;
      add(told.lines);
      say(problem, "");
    } catch (error) {
      if (!signal.aborted) say(problem, error.message);
    }
  }

  async function look() {
    while (!signal.aborted) {
      if (wanted && (following.checked || !cursor) && !document.hidden) await ask();
      await new Promise((resolve) => { setTimeout(resolve, EVERY); });
    }
  }

  select.addEventListener("change", () => {
    wanted = select.value;
    cursor = "";
    box.replaceChildren();
    say(problem, "");
  });
  offer();
  look();
  return listen((kind) => kind === "state" && offer());
}
