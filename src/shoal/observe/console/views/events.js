// What happened, and why: the events of all nodes.

import { el, keyed, say } from "../dom.js";
import { listen, live } from "../live.js";
import { clock, t } from "../words.js";

const LEVELS = ["info", "warning", "error"];

export function show(root) {
  const level = el("select", { id: "event-level" }, ...LEVELS.map((name) => el("option", { value: name }, t(`level_${name}`))));
  const words = el("input", { id: "event-words", type: "search" });
  const count = el("p", { class: "quiet", role: "status" });
  const list = el("ul", { class: "plain events" });
  root.append(
    el("p", { class: "quiet" }, t("events_text")),
    el("div", { class: "row" },
      el("div", { class: "field" }, el("label", { for: "event-level" }, t("level")), level),
      el("div", { class: "field grow" }, el("label", { for: "event-words" }, t("with_words")), words)),
    count, list,
  );

  function fill() {
    const least = LEVELS.indexOf(level.value);
    const wanted = words.value.toLowerCase();
    const found = live.events.filter((event) => LEVELS.indexOf(event.level) >= least
      && `${event.node} ${event.text}`.toLowerCase().includes(wanted)).reverse();
    say(count, t("events_count", { count: found.length }));
    keyed(list, found, (event) => `${event.node} ${event.time} ${event.text}`, (event) => el("li", { class: event.level },
      el("span", { class: "quiet" }, el("time", { datetime: new Date(1000 * event.time).toISOString() }, clock(event.time)),
        ` ${event.node} ${event.level === "info" ? "" : t(`level_${event.level}`)}`), el("br"), event.text), () => {});
  }

  level.addEventListener("change", fill);
  words.addEventListener("input", fill);
  fill();
  return listen((kind) => kind === "events" && fill());
}
