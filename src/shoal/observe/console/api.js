// Questions and orders to the node. The API key goes in a header and is kept for this tab only (sessionStorage).

import { say } from "./dom.js";
import { t } from "./words.js";

const KEPT = "shoal-key";
let asking = null;

/** An answer that is none; `status` is that of HTTP, 0 where nothing came. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function key() {
  return sessionStorage.getItem(KEPT) ?? "";
}

/** Ask for a key in a dialog; resolves to whether one was given. */
export function askKey(problem = "") {
  if (asking) return asking;
  const dialog = document.getElementById("key-dialog");
  const form = document.getElementById("key-form");
  const input = document.getElementById("key-input");
  const cancel = document.getElementById("key-cancel");
  say(document.getElementById("key-problem"), problem);
  input.value = "";
  asking = new Promise((resolve) => {
    const done = new AbortController();
    let given = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEPT, input.value.trim());
      input.value = "";
      given = true;
      dialog.close();
    }, { signal: done.signal });
    cancel.addEventListener("click", () => dialog.close(), { signal: done.signal });
    dialog.addEventListener("close", () => {
      done.abort();
      asking = null;
      resolve(given);
    }, { signal: done.signal });
  });
  dialog.showModal();
  input.focus();
  return asking;
}

/** Ask whether something is to be done; resolves to true or false. */
export function sure(title, text, ok) {
  const dialog = document.getElementById("sure-dialog");
  const form = document.getElementById("sure-form");
  say(document.getElementById("sure-title"), title);
  say(document.getElementById("sure-text"), text);
  const button = document.getElementById("sure-ok");
  button.hidden = !ok;
  say(button, ok ?? "");
  return new Promise((resolve) => {
    const done = new AbortController();
    let yes = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      yes = true;
      dialog.close();
    }, { signal: done.signal });
    document.getElementById("sure-cancel").addEventListener("click", () => dialog.close(), { signal: done.signal });
    dialog.addEventListener("close", () => {
      done.abort();
      resolve(yes);
    }, { signal: done.signal });
    dialog.showModal();
  });
}

/** Fetch a path of the node with the key; throw `Refused` where the answer is no good one. */
export async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key()) headers.set("authorization", `Bearer ${key()}`);
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(t("no_answer"), 0);
  }
  if (answer.ok) return answer;
  let message = `${answer.status}`;
  try {
    message = (await answer.json()).error.message;
  } catch {
    // No JSON: the number has to do.
  }
  throw new Refused(message, answer.status);
}

export async function askJson(path, options = {}) {
  return (await ask(path, options)).json();
}

/** Give an order of the console; resolves to its answer. Asks for a key where it needs one. */
export async function order(name, body, guarded) {
  if (guarded && !key() && !(await askKey())) return null;
  for (;;) {
    try {
      return await askJson(`shoal/v1/console/${name}`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
      });
    } catch (error) {
      const unknown = guarded && (error.status === 401 || error.status === 403);
      if (!unknown || !(await askKey(error.message))) throw error;
    }
  }
}
