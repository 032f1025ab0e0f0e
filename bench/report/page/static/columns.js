// Which columns of a leaderboard are shown: chosen by name, kept in the address, and remembered for each kind of table.
//
// What is kept are the columns that are turned: shown where the page would hide them, or hidden where it would show
// them. So a column that a later report adds is seen by those who chose before.
"use strict";

bench.columns = (() => {
  const { el } = bench;
  const { chip } = bench.parts;
  const place = (kind) => `steer-or-prompt-columns-${kind}`;

  function remembered(kind) {
    try {
      const found = JSON.parse(localStorage.getItem(place(kind)));
      return Array.isArray(found) ? found.filter((key) => typeof key === "string") : [];
    } catch {
      return []; // a browser may refuse it to a file, and what is there may be another program's
    }
  }

  function remember(kind, turned) {
    try {
      if (turned.size) localStorage.setItem(place(kind), JSON.stringify([...turned]));
      else localStorage.removeItem(place(kind));
    } catch {
      // then it lasts until the page is closed
    }
  }

  /** Columns by name, to be turned one by one; `changed` is called with those that are turned. */
  function chooser(kind, columns, asked, changed) {
    const turned = new Set(asked.length ? asked : remembered(kind));
    const shown = () => columns.filter((column) => column.fixed || turned.has(column.key) === Boolean(column.extra));
    const heading = el("summary", {});
    const chips = columns
      .filter((column) => !column.fixed)
      .map((column) => chip(column.label, false, () => turn([column]), { "data-key": column.key }));
    const extra = columns.filter((column) => column.extra);
    const all = () => extra.every((column) => turned.has(column.key));
    const costs = extra.length > 0 && chip("Cost columns", false, () => turn(extra.filter(({ key }) => turned.has(key) === all())));
    const reset = el("button", { type: "button", cls: "chip", on: { click: () => (turned.clear(), turn([])) } }, "Reset columns");
    function turn(some) {
      for (const { key } of some) if (!turned.delete(key)) turned.add(key);
      remember(kind, turned);
      draw();
      changed(turned);
    }
    function draw() {
      const now = new Set(shown().map((column) => column.key));
      for (const one of chips) one.setAttribute("aria-pressed", String(now.has(one.dataset.key)));
      if (costs) costs.setAttribute("aria-pressed", String(all()));
      heading.textContent = `Columns: ${now.size === columns.length ? "all" : `${now.size} of`} ${columns.length}`;
    }
    draw();
    return {
      shown,
      turned,
      costs,
      node: el("details", { cls: "pick" }, heading, el("div", { cls: "chips", role: "group", "aria-label": "Columns shown" }, chips, reset)),
    };
  }

  return { chooser };
})();
