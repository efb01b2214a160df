// What the node tells once a second, for all views.

import { ask, askKey } from "./api.js";
import { events } from "./sse.js";

const SPAN = 900; // seconds that charts show
const STEP = 2; // seconds of a point, see shoal/observe/history.py
const MOST_EVENTS = 1000;
const SILENCE = 10000; // ms without news after which a connection is taken for lost: there are news every second

export const live = {
  state: null, // members, engines and what else /shoal/v1/status has
  points: new Map(), // by their time, in seconds
  events: [], // oldest first
  link: "connecting", // connecting, live, lost, locked
};

const listeners = new Set();

/** Call `listener(kind)` on news: "state", "points", "events" or "link". Returns what ends that. */
export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function tell(kind) {
  for (const listener of listeners) listener(kind);
}

function link(state) {
  if (live.link !== state) {
    live.link = state;
    tell("link");
  }
}

const take = {
  state(data) {
    live.state = data;
  },
  points(data) {
    for (const point of data) live.points.set(point.t, point);
    const oldest = Math.max(...live.points.keys()) - SPAN;
    for (const time of live.points.keys()) if (time < oldest) live.points.delete(time);
  },
  events(data) {
    if (data.fresh) live.events = [];
    live.events.push(...data.events);
    live.events.splice(0, Math.max(0, live.events.length - MOST_EVENTS));
  },
};

let waking = () => {};

/** Try again at once: there is a key now. */
export function wake() {
  waking();
}

function pause(seconds) {
  return new Promise((resolve) => {
    waking = resolve;
    setTimeout(resolve, 1000 * seconds);
  });
}

/** Follow the node for as long as the page is open. */
export async function follow() {
  let patience = 1;
  for (;;) {
    const silent = new AbortController();
    let alarm = setTimeout(() => silent.abort(), SILENCE);
    try {
      const known = live.points.size ? Math.round(Math.max(...live.points.keys()) / STEP) : "";
      for await (const { event, data } of events(await ask(`shoal/v1/live?after=${known}`, { signal: silent.signal }))) {
        clearTimeout(alarm);
        alarm = setTimeout(() => silent.abort(), SILENCE);
        if (!(event in take)) continue;
        take[event](JSON.parse(data));
        patience = 1;
        link("live");
        tell(event);
      }
      // Streams end after some minutes, or with their node: the next one says which.
    } catch (error) {
      if (error.status === 401 || error.status === 403) {
        link("locked");
        if (!(await askKey(error.status === 403 ? error.message : ""))) await pause(3600);
        continue;
      }
      link("lost");
      await pause(patience);
      patience = Math.min(2 * patience, 8);
    } finally {
      clearTimeout(alarm);
    }
  }
}
