// Elements without innerHTML: what comes from outside only ever becomes text.

/** Return a new element. `props`: class, on (listeners), data-*, aria-* and other attributes. Strings become text. */
export function el(name, props = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "on") for (const [type, listener] of Object.entries(value)) made.addEventListener(type, listener);
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Set the text of an element, touching nothing where it is that already. */
export function say(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/**
 * Make the children of `parent` those of `items`, in their order; who stays keeps its element, and so its focus.
 * `create(item)` returns an element, `update(element, item)` fills it.
 */
export function keyed(parent, items, key, create, update) {
  const known = parent.keyed ?? (parent.keyed = new Map());
  const wanted = new Map(items.map((item) => [String(key(item)), item]));
  for (const [name, element] of known) {
    if (!wanted.has(name)) {
      element.remove();
      known.delete(name);
    }
  }
  let next = parent.firstChild;
  for (const [name, item] of wanted) {
    let element = known.get(name);
    if (!element) {
      element = create(item);
      known.set(name, element);
    }
    update(element, item);
    if (element === next) next = next.nextSibling;
    else parent.insertBefore(element, next);
  }
}

let hiding;

/** Show a sentence for some seconds, also to screen readers. */
export function toast(text) {
  const box = document.getElementById("toast");
  box.hidden = false;
  say(box, text);
  clearTimeout(hiding);
  hiding = setTimeout(() => { box.hidden = true; }, 8000);
}
