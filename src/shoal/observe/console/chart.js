// A line chart over the last 15 minutes, in SVG.

import { el, say } from "./dom.js";
import { clock, t } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const SPAN = 900; // seconds
const GAP = 7; // seconds without a point that break a line
const WIDTH = 1000;
const HEIGHT = 100;

function svg(name, props) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(props)) made.setAttribute(key, value);
  return made;
}

/** Return the next number above `value` that a scale may end with: 1, 2 or 5 times a power of ten. */
export function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

export class Chart {
  /** `series`: [{name, of(point) -> number or null}]; `show(number) -> text`; `top`: the scale's end, if it is fixed. */
  constructor(title, series, show, top = 0) {
    this.series = series;
    this.show = show;
    this.top = top;
    this.points = [];
    this.heading = el("h2", {}, title);
    this.picture = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    for (const y of [0.5, HEIGHT / 2, HEIGHT - 0.5]) this.picture.append(svg("line", { x1: 0, x2: WIDTH, y1: y, y2: y }));
    this.at = svg("line", { class: "at", y1: 0, y2: HEIGHT, visibility: "hidden" });
    this.lines = series.map((_, i) => svg("g", { class: `c${(i % 6) + 1}` }));
    this.picture.append(...this.lines, this.at);
    this.values = series.map((one, i) => el("span", { class: `c${(i % 6) + 1}` }));
    this.when = el("span", { class: "quiet" });
    this.scale = el("span");
    this.root = el(
      "section", { class: "card" }, this.heading, el("p", { class: "legend" }, ...this.values),
      el("div", {}, el("p", { class: "axis", "aria-hidden": "true" }, this.scale, this.when), this.picture,
        el("p", { class: "axis", "aria-hidden": "true" }, el("span", {}, t("minutes_ago")), el("span", {}, t("now")))),
    );
    this.picture.addEventListener("pointermove", (event) => this.point(event));
    this.picture.addEventListener("pointerleave", () => this.tell(null));
  }

  draw(points) {
    this.points = points;
    const end = points.length ? points[points.length - 1].t : 0;
    const all = points.flatMap((point) => this.series.map((one) => one.of(point) ?? 0));
    const top = this.top || ceiling(Math.max(0, ...all));
    say(this.scale, this.show(top));
    this.begin = end - SPAN;
    this.series.forEach((one, i) => {
      const parts = [];
      let last = -Infinity;
      for (const point of points) {
        const value = one.of(point);
        if (value === null || value === undefined) continue;
        if (point.t - last > GAP) parts.push([]);
        last = point.t;
        const x = ((point.t - this.begin) / SPAN) * WIDTH;
        parts[parts.length - 1].push(`${x.toFixed(1)},${(HEIGHT - (Math.min(value, top) / top) * (HEIGHT - 2) - 1).toFixed(1)}`);
      }
      this.lines[i].replaceChildren(...parts.map((part) => {
        if (part.length === 1) part.push(`${parseFloat(part[0]) + 1},${part[0].split(",")[1]}`);
        return svg("polyline", { points: part.join(" ") });
      }));
    });
    this.tell(null);
  }

  point(event) {
    const box = this.picture.getBoundingClientRect();
    const time = this.begin + ((event.clientX - box.left) / box.width) * SPAN;
    const nearest = this.points.reduce((best, one) => (!best || Math.abs(one.t - time) < Math.abs(best.t - time) ? one : best), null);
    this.tell(nearest);
  }

  /** Show the values of a point, or those of the last one. */
  tell(point) {
    const shown = point ?? this.points[this.points.length - 1];
    this.at.setAttribute("visibility", point ? "visible" : "hidden");
    if (point) {
      const x = ((point.t - this.begin) / SPAN) * WIDTH;
      this.at.setAttribute("x1", x);
      this.at.setAttribute("x2", x);
    }
    say(this.when, point ? clock(point.t) : "");
    const texts = this.series.map((one) => {
      const value = shown ? one.of(shown) : null;
      return `${one.name} ${value === null || value === undefined ? "–" : this.show(value)}`;
    });
    this.values.forEach((value, i) => say(value, texts[i]));
    this.picture.setAttribute("aria-label", `${this.heading.textContent}: ${texts.join(", ")}`);
  }
}
