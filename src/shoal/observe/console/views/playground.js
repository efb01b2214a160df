// Talk to a model: which engine answers, and what happens when it fails.

import { ask, askJson } from "../api.js";
import { el, say } from "../dom.js";
import { events } from "../sse.js";
import { duration, number, t } from "../words.js";

const SEAM = /^shoal: (.*)$/; // the comment that the gateway puts where another engine goes on

const kept = { messages: [], model: "", tokens: 256, temperature: 0.7 }; // survives a look at another view

export function show(root, _, signal) {
  const model = el("select", { id: "talk-model", required: true });
  const tokens = el("input", { id: "talk-tokens", type: "number", min: "1", max: "100000", value: kept.tokens });
  const temperature = el("input", { id: "talk-temperature", type: "number", min: "0", max: "2", step: "0.1", value: kept.temperature });
  const talk = el("section", { class: "talk", role: "log", "aria-label": t("talk") });
  const text = el("textarea", { id: "talk-text", required: true });
  const send = el("button", { type: "submit", class: "main" }, t("send"));
  const stop = el("button", { type: "button", hidden: true }, t("stop"));
  const anew = el("button", { type: "button" }, t("talk_anew"));
  const problem = el("p", { class: "problem", role: "status" });
  const field = (name, label, input) => el("div", { class: "field" }, el("label", { for: name }, label), input);
  const form = el("form", { class: "card" }, el("div", { class: "field" }, el("label", { for: "talk-text" }, t("message")), text),
    el("div", { class: "row end" }, el("span", { class: "quiet" }, t("send_keys")), anew, stop, send));
  root.append(el("div", { class: "card row" }, field("talk-model", t("model"), model), field("talk-tokens", t("max_tokens"), tokens),
    field("talk-temperature", t("temperature"), temperature)), talk, problem, form);
  let stopping = new AbortController();
  signal.addEventListener("abort", () => stopping.abort());

  async function offer() {
    try {
      const { data } = await askJson("v1/models", { signal });
      model.replaceChildren(...data.map(({ id }) => el("option", { value: id }, id)));
      if (data.some(({ id }) => id === kept.model)) model.value = kept.model;
      say(problem, data.length ? "" : t("no_models"));
    } catch (error) {
      if (!signal.aborted) say(problem, error.message);
    }
  }

  function mine(words) {
    talk.append(el("div", { class: "said mine" }, el("h3", {}, t("you")), words));
  }

  function reply() {
    const about = el("p", { class: "quiet" });
    const words = el("div");
    const box = el("div", { class: "said reply", "aria-busy": "true" }, el("h3", {}, t("answer")), words, about);
    talk.append(box);
    return { box, words, about };
  }

  async function answer(request) {
    const { box, words, about } = reply();
    const began = performance.now();
    let first = 0;
    let count = 0;
    let engine = "";
    let content = "";
    const tell = () => {
      const took = (performance.now() - began) / 1000;
      const rate = first && count > 1 ? number((count - 1) / Math.max(took - first, 0.001), 1) : "–";
      say(about, t("answered_by", { engine: engine || "–", first: first ? duration(first) : "–", tokens: number(count), rate }));
    };
    try {
      const response = await ask("v1/chat/completions", {
        method: "POST", signal: stopping.signal, headers: { "content-type": "application/json" }, body: JSON.stringify(request),
      });
      engine = response.headers.get("x-shoal-engine") ?? "";
      tell();
      for await (const { data, comment } of events(response)) {
        const seam = SEAM.exec(comment);
        if (seam) {
          words.append(el("span", { class: "seam" }, t("seam", { what: seam[1] })));
          engine += ` → ${/; (\S+) goes on after/.exec(seam[1])?.[1] ?? "?"}`;
        }
        if (!data || data === "[DONE]") continue;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message);
        if (chunk.usage) count = chunk.usage.completion_tokens;
        const delta = chunk.choices?.[0]?.delta;
        const piece = delta?.content ?? "";
        const thought = delta?.reasoning ?? delta?.reasoning_content ?? "";
        if (!piece && !thought) continue;
        first ||= (performance.now() - began) / 1000;
        if (!chunk.usage) count += 1;
        content += piece;
        if (thought) {
          if (!words.thinks) {
            words.thinks = el("div", { class: "quiet" });
            words.append(words.thinks);
          }
          words.thinks.append(thought);
        } else words.append(piece);
        tell();
      }
    } finally {
      box.setAttribute("aria-busy", "false");
      tell();
    }
    return content;
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const words = text.value.trim();
    if (!words || send.disabled) return;
    kept.model = model.value;
    kept.tokens = Number(tokens.value);
    kept.temperature = Number(temperature.value);
    kept.messages.push({ role: "user", content: words });
    mine(words);
    text.value = "";
    say(problem, "");
    stopping = new AbortController();
    send.disabled = true;
    stop.hidden = false;
    try {
      const content = await answer({
        model: kept.model, messages: kept.messages, max_tokens: kept.tokens, temperature: kept.temperature, stream: true,
        stream_options: { include_usage: true },
      });
      kept.messages.push({ role: "assistant", content });
    } catch (error) {
      kept.messages.pop(); // what has no answer is not asked again with the next message
      if (!signal.aborted) say(problem, error.name === "AbortError" ? t("stopped") : error.message);
    }
    send.disabled = false;
    stop.hidden = true;
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  stop.addEventListener("click", () => stopping.abort());
  anew.addEventListener("click", () => {
    stopping.abort();
    kept.messages = [];
    talk.replaceChildren();
    text.focus();
  });
  for (const { role, content } of kept.messages) {
    if (role === "user") mine(content);
    else {
      const { box, words } = reply();
      words.append(content);
      box.setAttribute("aria-busy", "false");
    }
  }
  offer();
}
