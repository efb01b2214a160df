// The languages: two catalogues with the same keys, chosen by the browser's language or the switch.

const LANGUAGES = ["en", "zh"];
let words = {};

export let language = "en";

function chosen() {
  const kept = localStorage.getItem("shoal-language");
  if (LANGUAGES.includes(kept)) return kept;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

/** Load a language, the browser's or the one chosen last by default, and put it into what is on the page already. */
export async function speak(which = chosen()) {
  const answer = await fetch(new URL(`${which}.json`, import.meta.url));
  words = await answer.json();
  language = which;
  document.documentElement.lang = which === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-t-label]")) {
    element.setAttribute("aria-label", t(element.dataset.tLabel));
  }
}

/** Remember a choice and speak it. */
export async function choose(which) {
  localStorage.setItem("shoal-language", which);
  await speak(which);
}

/** Return a text of the catalogue, `{name}` replaced by what is given. */
export function t(key, given = {}) {
  const text = words[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => given[name] ?? "");
}

/** Return the word for a state, or the state itself where there is none. */
export function stateWord(state) {
  return words[`state_${state}`] ?? state;
}

export function number(value, digits = 0) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value);
}

export function percent(share) {
  return `${number(100 * share)} %`;
}

/** Return seconds for people. */
export function duration(seconds) {
  if (seconds < 1) return `${number(1000 * seconds)} ms`;
  if (seconds < 120) return `${number(seconds, seconds < 10 ? 1 : 0)} s`;
  if (seconds < 7200) return `${number(seconds / 60)} min`;
  return `${number(seconds / 3600, 1)} h`;
}

export function clock(seconds) {
  return new Date(1000 * seconds).toLocaleTimeString(language, { hour12: false });
}

export function bytes(count) {
  if (count < 1024) return `${count} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let value = count;
  let unit = -1;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${number(value, 1)} ${units[unit]}`;
}
