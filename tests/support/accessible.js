// What a page gets wrong for people who do not see it well, or use no mouse: a list of sentences, empty if nothing.
() => {
  const found = [];
  const shown = (element) => element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
  const told = (element) => `${element.tagName.toLowerCase()}#${element.id}.${element.className} "${element.textContent.trim().slice(0, 40)}"`;
  const name = (element) => (element.getAttribute("aria-label") ?? "").trim()
    || [...(element.labels ?? [])].map((label) => label.textContent.trim()).join(" ")
    || (element.matches("input, select, textarea") ? "" : element.textContent.trim());

  if (!document.documentElement.lang) found.push("the page has no language");
  if (!document.title) found.push("the page has no title");
  for (const [what, count] of [["main", 1], ["nav", 1], ["header", 1], ["h1", 1]]) {
    if (document.querySelectorAll(what).length !== count) found.push(`there is not ${count} ${what}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of ids.filter((one, i) => ids.indexOf(one) !== i)) found.push(`two elements have the id ${id}`);
  for (const element of document.querySelectorAll("a, button, input, select, textarea, [role=img], [role=meter], progress")) {
    if (shown(element) && !name(element)) found.push(`no name: ${told(element)}`);
  }
  for (const image of document.querySelectorAll("img")) if (!image.hasAttribute("alt")) found.push(`no alt: ${image.src}`);
  for (const head of document.querySelectorAll("th")) if (!head.scope) found.push(`no scope: ${told(head)}`);
  for (const element of document.querySelectorAll("button, select, input:not([type=checkbox])")) {
    if (shown(element) && element.getBoundingClientRect().height < 24) found.push(`too small to hit: ${told(element)}`);
  }
  for (const element of document.querySelectorAll("[tabindex]")) {
    if (Number(element.getAttribute("tabindex")) > 0) found.push(`an order of its own: ${told(element)}`);
  }
  let level = 1;
  for (const heading of document.querySelectorAll("main h1, main h2, main h3")) {
    const own = Number(heading.tagName[1]);
    if (own > level + 1 && shown(heading)) found.push(`a heading of level ${own} below one of level ${level}: ${told(heading)}`);
    level = own;
  }

  const parts = (colour) => colour.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((one) => one / 255)
    .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, i) => sum + one * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parts(getComputedStyle(at).backgroundColor);
      if (colour[3] === undefined || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !shown(element) || element.closest("noscript, dialog:not([open]), option")) continue;
    const style = getComputedStyle(element);
    const [one, other] = [luminance(parts(style.color)), luminance(behind(element))].sort((a, b) => b - a);
    const contrast = (one + 0.05) / (other + 0.05);
    if (contrast < 4.5) found.push(`contrast ${contrast.toFixed(2)}: ${told(element)}`);
  }
  return found;
}
