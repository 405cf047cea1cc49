// The table of all papers. A press on a paper's name chooses it; what is chosen and what is shown are the page's to say.
const cell = (row, words, kind = "td") => {
  const made = document.createElement(kind);
  made.append(words);
  row.append(made);
  return made;
};

const link = (words, address) => {
  if (!address) return words;
  const made = document.createElement("a");
  [made.textContent, made.href, made.target] = [words, address, "_blank"];
  return made;
};

export function render({ model }) {
  const frame = document.createElement("div");
  [frame.tabIndex, frame.className] = [0, "frame"];
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", "All papers");

  const draw = () => {
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const name of ["paper", "verdict", "effect [95% interval]", "seeds", "judged", "family", "chapter"]) cell(head, name, "th").scope = "col";
    const body = table.createTBody();
    for (const paper of model.rows) {
      const row = body.insertRow();
      const name = document.createElement("button");
      [name.textContent, name.title] = [paper.key, paper.title];
      name.addEventListener("click", () => { model.chosen = paper.key; });
      const first = cell(row, name, "th");
      first.scope = "row";
      if (paper.key === model.chosen) name.setAttribute("aria-current", "true");
      const mark = document.createElement("span");
      [mark.textContent, mark.className] = [paper.mark, paper.verdict.replace(" ", "-")];
      const verdict = cell(row, mark);
      verdict.append(` ${paper.verdict}`);
      if (paper.stale) verdict.append(", stale");
      for (const part of [paper.effect, paper.seeds, paper.judged, paper.family]) cell(row, part);
      cell(row, link(paper.chapter, paper.address));
    }
    if (!model.rows.length) cell(body.insertRow(), "No paper fits; search for less.").colSpan = 7;
    frame.replaceChildren(table);
  };

  const redraw = () => {
    const focused = frame.getRootNode().activeElement?.textContent;
    draw();
    if (focused) [...frame.querySelectorAll("button")].find((b) => b.textContent === focused)?.focus();
  };
  model.on("rows", redraw);
  model.on("chosen", () => {
    redraw();
    if (model.chosen) document.querySelector("main").scrollTo(0, 0);
    if (model.chosen) document.querySelector("main").scrollIntoView();
  });
  draw();
  return frame;
}
