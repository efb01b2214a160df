// Server-sent events out of a response that is read as it comes, comments included (EventSource shows no comments,
// sends no headers and no POST).

/** Yield {event, data, comment} for each block of a stream; `comment` is the text behind a colon, "" without one. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const blocks = rest.split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) yield parsed(block);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const found = { event: "message", data: "", comment: "" };
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "") found.comment = value;
    else if (name === "data") data.push(value);
    else if (name === "event") found.event = value;
  }
  found.data = data.join("\n");
  return found;
}
