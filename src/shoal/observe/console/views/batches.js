// Batches: how far they are, and new ones.

import { ask, askJson, sure } from "../api.js";
import { el, keyed, say, toast } from "../dom.js";
import { duration, number, t } from "../words.js";

const EVERY = 2000; // ms
const OVER = ["completed", "failed", "expired", "cancelled"];
const COLOURS = { completed: "good", in_progress: "good", failed: "bad", expired: "bad" };

/** Return where the requests of a file go: what its first line says. */
async function endpointOf(file) {
  const [first] = (await file.slice(0, 1024 * 1024).text()).split("\n", 1);
  try {
    const { url } = JSON.parse(first);
    if (typeof url === "string") return url;
  } catch {
    // Said below.
  }
  throw new Error(t("batch_no_url"));
}

async function upload(file) {
  const endpoint = await endpointOf(file);
  const form = new FormData();
  form.append("purpose", "batch");
  form.append("file", file, file.name);
  const { id } = await askJson("v1/files", { method: "POST", body: form });
  const body = JSON.stringify({ input_file_id: id, endpoint, completion_window: "24h" });
  return askJson("v1/batches", { method: "POST", headers: { "content-type": "application/json" }, body });
}

async function download(id, name) {
  const answer = await ask(`v1/files/${encodeURIComponent(id)}/content`);
  const url = URL.createObjectURL(await answer.blob());
  const link = el("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

async function tried(work) {
  try {
    await work();
  } catch (error) {
    toast(error.message);
  }
}

function card() {
  const parts = {
    name: el("h2"), state: el("span", { class: "state" }), bar: el("progress"), about: el("p", { class: "quiet" }),
    problem: el("p", { class: "problem" }),
    cancel: el("button", { type: "button", class: "small" }, t("batch_cancel")),
    output: el("button", { type: "button", class: "small" }, t("batch_output")),
    errors: el("button", { type: "button", class: "small" }, t("batch_errors")),
  };
  const root = el("article", { class: "card" }, el("div", { class: "row" }, parts.name, parts.state), parts.bar, parts.about, parts.problem,
    el("div", { class: "row" }, parts.cancel, parts.output, parts.errors));
  root.parts = parts;
  parts.cancel.addEventListener("click", async () => {
    const title = t("batch_cancel");
    if (await sure(title, root.batch.id, title)) tried(() => ask(`v1/batches/${root.batch.id}/cancel`, { method: "POST" }));
  });
  parts.output.addEventListener("click", () => tried(() => download(root.batch.output_file_id, `${root.batch.id}.jsonl`)));
  parts.errors.addEventListener("click", () => tried(() => download(root.batch.error_file_id, `${root.batch.id}.errors.jsonl`)));
  return root;
}

function fill(root, batch) {
  const { parts } = root;
  const { total, completed, failed } = batch.request_counts;
  root.batch = batch;
  say(parts.name, batch.id);
  say(parts.state, t(`batch_${batch.status}`));
  parts.state.className = `state ${COLOURS[batch.status] ?? ""}`;
  parts.bar.max = Math.max(total, 1);
  parts.bar.value = completed + failed;
  parts.bar.setAttribute("aria-label", t("batch_progress", { batch: batch.id }));
  const done = completed + failed;
  const passed = Date.now() / 1000 - (batch.in_progress_at ?? batch.created_at);
  const left = batch.status === "in_progress" && done && total > done ? t("batch_left", { time: duration((passed / done) * (total - done)) }) : "";
  const owner = batch.shoal ? t("batch_owner", { owner: batch.shoal.owner, copies: (batch.shoal.copies ?? []).length }) : "";
  say(parts.about, [t("batch_counts", { completed: number(completed), failed: number(failed), total: number(total) }), batch.endpoint, owner, left].filter(Boolean).join(" · "));
  const problems = batch.errors?.data ?? [];
  say(parts.problem, problems.map((one) => one.message).join(" "));
  parts.problem.hidden = !problems.length;
  parts.cancel.hidden = OVER.includes(batch.status);
  parts.output.hidden = !batch.output_file_id;
  parts.errors.hidden = !batch.error_file_id;
}

export function show(root, _, signal) {
  const file = el("input", { type: "file", id: "batch-file", accept: ".jsonl,application/jsonl", required: true });
  const send = el("button", { type: "submit", class: "main" }, t("batch_send"));
  const form = el("form", { class: "card" }, el("h2", {}, t("batch_new")), el("p", { class: "quiet" }, t("batch_text")),
    el("div", { class: "row" }, el("div", { class: "field grow" }, el("label", { for: "batch-file" }, t("batch_file")), file), send));
  const problem = el("p", { class: "problem", role: "status" });
  const list = el("section", { class: "grid", "aria-label": t("view_batches") });
  const none = el("p", { class: "quiet", hidden: true }, t("batch_none"));
  root.append(form, problem, none, list);

  async function renew() {
    const { data } = await askJson("v1/batches?limit=50", { signal });
    none.hidden = data.length > 0;
    keyed(list, data, (batch) => batch.id, card, fill);
    say(problem, "");
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    send.disabled = true;
    await tried(async () => {
      const batch = await upload(file.files[0]);
      form.reset();
      toast(t("batch_taken", { batch: batch.id }));
      await renew();
    });
    send.disabled = false;
  });

  async function look() {
    while (!signal.aborted) {
      try {
        if (!document.hidden) await renew();
      } catch (error) {
        if (!signal.aborted) say(problem, error.message);
      }
      await new Promise((resolve) => { setTimeout(resolve, EVERY); });
    }
  }
  look();
}
