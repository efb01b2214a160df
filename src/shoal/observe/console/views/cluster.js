// The cluster map: nodes, their engines, groups; orders.

import { order, sure } from "../api.js";
import { el, keyed, say, toast } from "../dom.js";
import { listen, live } from "../live.js";
import { duration, number, percent, stateWord, t } from "../words.js";

const COLOURS = {
  alive: "good", ready: "good", running: "good",
  suspect: "warn", starting: "warn", draining: "warn", drained: "warn", waiting: "warn", stopping: "warn",
  joined: "warn", ending: "warn",
  dead: "bad", unhealthy: "bad",
};

function badge() {
  return el("span", { class: "state" });
}

function setBadge(element, state) {
  say(element, stateWord(state));
  element.className = `state ${COLOURS[state] ?? ""}`;
}

function meter(label) {
  const fill = el("i");
  const value = el("b");
  const root = el("div", { class: "meter" }, el("span", {}, label), el("span", {
    class: "bar", role: "meter", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "100",
  }, fill), value);
  root.set = (share) => {
    const known = share !== null && share !== undefined;
    fill.style.width = `${Math.round(100 * (share ?? 0))}%`;
    root.children[1].setAttribute("aria-valuenow", Math.round(100 * (share ?? 0)));
    say(value, known ? percent(share) : "–");
  };
  return root;
}

/** Ask, give the order, say what came of it; offer to force what is refused for the sake of those who use a model. */
async function command(name, body, title, text) {
  if (!live.state) return;
  if (!live.state.guarded) {
    await sure(title, t("orders_need_key"), "");
    return;
  }
  if (!(await sure(title, text, title))) return;
  try {
    if (await order(name, body, true)) toast(t("ordered", { what: title }));
  } catch (error) {
    if (error.status === 409 && !body.force && (await sure(t("refused"), error.message, t("force")))) {
      await command2(name, { ...body, force: true }, title);
    } else if (error.status !== 409 || body.force) toast(error.message);
  }
}

async function command2(name, body, title) {
  try {
    if (await order(name, body, true)) toast(t("ordered", { what: title }));
  } catch (error) {
    toast(error.message);
  }
}

function engineCard(node) {
  const parts = {
    name: el("h3"), state: badge(), detail: el("p", { class: "quiet" }), numbers: el("p", { class: "quiet" }),
    kv: meter(t("kv")), log: el("a", {}, t("log")), restart: el("button", { type: "button", class: "small" }, t("restart")),
    errors: el("p", { class: "problem" }),
  };
  const root = el("li", { class: "engine" }, el("div", { class: "row" }, parts.name, parts.state), parts.detail, parts.numbers, parts.kv,
    parts.errors, el("div", { class: "row" }, parts.log, parts.restart));
  root.parts = parts;
  parts.restart.addEventListener("click", () => {
    const title = t("restart_engine", { engine: root.id_ });
    command("restart", { node, engine: root.id_ }, title, t("restart_text"));
  });
  return root;
}

function fillEngine(root, engine, node) {
  const { parts } = root;
  root.id_ = engine.id;
  say(parts.name, engine.id);
  setBadge(parts.state, engine.standby && engine.state === "ready" ? "standby" : engine.state);
  say(parts.detail, engine.detail);
  say(parts.numbers, t("engine_numbers", {
    model: engine.model, since: duration(engine.since), running: number(engine.running), waiting: number(engine.waiting),
    open: number(engine.in_flight ?? 0), restarts: number(engine.restarts),
  }));
  parts.kv.set(engine.kv_usage);
  say(parts.errors, (engine.errors ?? []).join(" "));
  parts.errors.hidden = !engine.errors?.length;
  parts.log.hidden = parts.restart.hidden = !node;
  if (node) {
    parts.log.setAttribute("href", `#/logs?of=${encodeURIComponent(`${node}/${engine.id}`)}`);
    parts.log.setAttribute("aria-label", t("log_of", { engine: `${node}/${engine.id}` }));
    parts.restart.setAttribute("aria-label", t("restart_engine", { engine: `${node}/${engine.id}` }));
  }
}

function nodeCard(member) {
  const parts = {
    name: el("h2"), state: badge(), about: el("p", { class: "quiet" }), cpu: meter(t("cpu")), memory: meter(t("memory")),
    gpu: meter(t("gpu")), engines: el("ul", { class: "plain" }),
    drain: el("button", { type: "button", class: "small" }, t("drain")),
    undrain: el("button", { type: "button", class: "small" }, t("undrain")),
  };
  for (const [name, button] of [["drain", parts.drain], ["undrain", parts.undrain]]) {
    const title = t(`${name}_node`, { node: member.name });
    button.setAttribute("aria-label", title);
    button.addEventListener("click", () => command(name, { node: member.name }, title, t(`${name}_text`)));
  }
  const root = el("article", { class: "card", "aria-label": t("node_named", { node: member.name }) },
    el("div", { class: "row" }, parts.name, parts.state), parts.about, parts.cpu, parts.memory, parts.gpu, parts.engines,
    el("div", { class: "row" }, parts.drain, parts.undrain));
  root.parts = parts;
  return root;
}

function fillNode(root, member) {
  const { parts } = root;
  say(parts.name, member.name);
  setBadge(parts.state, member.state);
  const heard = member.is_self ? t("this_node") : member.age === null ? t("never_heard") : t("heard", { ago: duration(member.age) });
  const role = member.covers ? t("covers", { node: member.covers }) : member.role ? t(`role_${member.role}`) : "";
  const queued = Object.values(member.waiting).reduce((sum, count) => sum + count, 0);
  say(parts.about, [role, heard, member.version ? `Shoal ${member.version}` : "", t("queued", { count: number(queued) })].filter(Boolean).join(" · "));
  const point = [...live.points.values()].reverse().find((one) => member.name in one.nodes);
  const [cpu, memory, gpu] = point?.nodes[member.name] ?? [null, null, null];
  parts.cpu.set(cpu);
  parts.memory.set(memory);
  parts.gpu.hidden = gpu === null;
  if (gpu !== null) parts.gpu.set(gpu);
  const there = ["alive", "suspect", "draining", "drained"].includes(member.state);
  keyed(parts.engines, member.engines, (engine) => engine.id, () => engineCard(member.name), (element, engine) => {
    fillEngine(element, there ? engine : { ...engine, state: "unknown" }, member.name);
  });
  parts.drain.hidden = member.state === "drained" || !there;
  parts.undrain.hidden = member.state !== "drained";
}

function groupsOf(members) {
  const groups = new Map();
  for (const member of members) {
    for (const seat of member.seats) {
      const group = groups.get(seat.group) ?? { name: seat.group, model: seat.model, seats: [] };
      group.seats.push({ ...seat, node: member.name });
      groups.set(seat.group, group);
    }
  }
  for (const group of groups.values()) group.seats.sort((a, b) => a.rank - b.rank);
  return [...groups.values()];
}

function groupCard() {
  const root = el("article", { class: "card" }, el("h3"), el("p", { class: "quiet" }), el("ul", { class: "plain" }));
  return root;
}

function fillGroup(root, group) {
  const [name, about, list] = root.children;
  say(name, group.name);
  const generation = Math.max(...group.seats.map((seat) => seat.generation));
  const waits = group.seats.map((seat) => seat.waits).find(Boolean) ?? "";
  say(about, [group.model, t("generation", { number: generation }), waits].filter(Boolean).join(" · "));
  keyed(list, group.seats, (seat) => seat.node, () => el("li", { class: "row" }, el("span"), badge(), el("a", {}, t("log"))), (element, seat) => {
    say(element.children[0], t("part", { rank: seat.rank, node: seat.node }));
    setBadge(element.children[1], seat.state);
    const engine = `${seat.node}/${seat.engine}`;
    element.children[2].setAttribute("href", `#/logs?of=${encodeURIComponent(engine)}`);
    element.children[2].setAttribute("aria-label", t("log_of", { engine }));
  });
}

function totals() {
  const names = ["engines", "tokens", "requests", "p50", "p99", "queue", "open", "kv"];
  const values = Object.fromEntries(names.map((name) => [name, el("dd", {}, "–")]));
  const root = el("dl", { class: "totals" }, ...names.map((name) => el("div", {}, el("dt", {}, t(`total_${name}`)), values[name])));
  root.fill = () => {
    const engines = live.state.members.flatMap((member) => (["alive", "suspect", "drained"].includes(member.state) ? member.engines : []))
      .concat(live.state.external).filter((engine) => !engine.standby);
    say(values.engines, `${engines.filter((engine) => engine.state === "ready").length} / ${engines.length}`);
    const point = latest();
    if (!point) return;
    say(values.tokens, number(point.tokens));
    say(values.requests, number(point.requests, 1));
    say(values.p50, point.p50 === null ? "–" : duration(point.p50));
    say(values.p99, point.p99 === null ? "–" : duration(point.p99));
    say(values.queue, number(point.waiting));
    say(values.open, number(point.open));
    say(values.kv, percent(point.kv));
  };
  return root;
}

/** Return the last point that all nodes had time to say something for. */
function latest() {
  const points = [...live.points.values()].sort((a, b) => a.t - b.t);
  const most = Math.max(0, ...points.slice(-5).map((point) => Object.keys(point.nodes).length));
  return points.slice(-3).reverse().find((point) => Object.keys(point.nodes).length === most) ?? points[points.length - 1];
}

export function show(root) {
  const alone = el("p", { class: "problem", role: "alert", hidden: true }, t("isolated"));
  const sums = totals();
  const nodes = el("section", { class: "grid", "aria-label": t("nodes") });
  const groups = el("section", { class: "grid", "aria-label": t("groups") });
  const groupsTitle = el("h2", { hidden: true }, t("groups"));
  const external = el("ul", { class: "plain" });
  const outside = el("section", { class: "card", hidden: true }, el("h2", {}, t("external")), external);
  const waiting = el("p", { class: "quiet" }, t("loading"));
  root.append(alone, waiting, sums, nodes, groupsTitle, groups, outside);
  function fill() {
    if (!live.state) return;
    const { members, external: others, isolated } = live.state;
    waiting.hidden = true;
    alone.hidden = !isolated;
    sums.fill();
    keyed(nodes, members, (member) => member.name, nodeCard, fillNode);
    const found = groupsOf(members);
    groups.hidden = groupsTitle.hidden = !found.length;
    keyed(groups, found, (group) => group.name, groupCard, fillGroup);
    outside.hidden = !others.length;
    keyed(external, others, (engine) => engine.id, () => engineCard(""), (element, engine) => fillEngine(element, engine, ""));
  }
  fill();
  return listen((kind) => kind === "state" && fill());
}
