// The frame: languages, colours, the key, and which view is shown.

import { askKey, key } from "./api.js";
import { el, say, toast } from "./dom.js";
import { follow, listen, live, wake } from "./live.js";
import { choose, language, speak, t } from "./words.js";
import * as batches from "./views/batches.js";
import * as charts from "./views/charts.js";
import * as cluster from "./views/cluster.js";
import * as events from "./views/events.js";
import * as logs from "./views/logs.js";
import * as playground from "./views/playground.js";
import * as requests from "./views/requests.js";

const VIEWS = { cluster, charts, requests, events, logs, batches, playground };
const main = document.getElementById("main");
let leave = () => {};

function place() {
  const [name, rest] = location.hash.replace(/^#\/?/, "").split("?");
  return { name: name in VIEWS ? name : "cluster", given: new URLSearchParams(rest ?? "") };
}

function show(focus) {
  leave();
  const { name, given } = place();
  for (const link of document.querySelectorAll("#views a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const heading = el("h1", { tabindex: "-1" }, t(`view_${name}`));
  main.replaceChildren(heading);
  document.title = `${t(`view_${name}`)} – Shoal`;
  const ended = new AbortController();
  const stop = VIEWS[name].show(main, given, ended.signal);
  leave = () => {
    ended.abort();
    stop?.();
  };
  if (focus) heading.focus();
}

function frame() {
  const links = Object.keys(VIEWS).map((name) => el("a", { href: `#/${name}`, "data-view": name }, t(`view_${name}`)));
  document.getElementById("views").replaceChildren(...links);
  link();
  where();
}

function link() {
  const box = document.getElementById("link");
  say(box, t(`link_${live.link}`));
  box.className = `state ${{ live: "good", lost: "bad", locked: "warn" }[live.link] ?? ""}`;
}

function where() {
  if (live.state) say(document.getElementById("where"), t("where", live.state));
}

function paint() {
  const wanted = localStorage.getItem("shoal-theme") ?? "auto";
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = wanted === "auto" ? (dark ? "dark" : "light") : wanted;
  document.getElementById("theme").value = wanted;
}

async function start() {
  paint();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  document.getElementById("theme").addEventListener("change", (event) => {
    localStorage.setItem("shoal-theme", event.target.value);
    paint();
  });
  await speak();
  const languages = document.getElementById("language");
  languages.value = language;
  languages.addEventListener("change", async () => {
    await choose(languages.value);
    frame();
    show(false);
  });
  document.getElementById("key").addEventListener("click", async () => {
    if (await askKey()) {
      toast(t(key() ? "key_kept" : "key_gone"));
      wake();
    }
  });
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the place behind # names the view
    main.focus();
  });
  addEventListener("hashchange", () => show(true));
  listen((kind) => {
    if (kind === "link") link();
    if (kind === "state") where();
  });
  frame();
  show(false);
  follow();
}

start();
