// Pieces that several views share: surfaces, chips, small plots, tables, headed sections.
"use strict";

bench.parts = (() => {
  const { el, svg, number, many } = bench;
  // A shape for each surface, so that black and white is enough.
  const SHAPES = {
    prompt: "●",
    decoding: "◐",
    activations: "▲",
    weights: "■",
    combination: "◆",
    detector: "✚",
    control: "○",
  };
  const known = (name) => (Object.hasOwn(SHAPES, name) ? name : "other");

  const surface = (name) =>
    el("span", { cls: `surface f-${known(name)}` }, el("span", { "aria-hidden": "true" }, SHAPES[known(name)] || "✦"), ` ${name}`);

  const glyph = (name) =>
    el("span", { cls: `glyph f-${known(name)}`, title: name, role: "img", "aria-label": name }, SHAPES[known(name)] || "✦");

  const chip = (label, pressed, act, extra = {}) =>
    el("button", { type: "button", cls: "chip", "aria-pressed": String(pressed), on: { click: act }, ...extra }, label);

  const choice = (label, options, value, act) =>
    el(
      "label",
      { cls: "choice" },
      el("span", {}, label),
      el(
        "select",
        { on: { change: (event) => act(event.target.value) } },
        options.map(([key, text, off]) => el("option", { value: key, selected: key === value, disabled: off }, text)),
      ),
    );

  /** A mean with its interval on an axis from `low` to `high`; `line` is the value compared with. */
  function whisker([mean, from, till], low, high, line, kind) {
    const x = (v) => 4 + (112 * (Math.min(high, Math.max(low, v)) - low)) / (high - low || 1);
    const mid = (v) => x(v).toFixed(1);
    return svg(
      "svg",
      { viewBox: "0 0 120 16", width: 120, height: 16, class: `whisker f-${known(kind)}`, "aria-hidden": "true" },
      svg("line", { x1: 4, x2: 116, y1: 8, y2: 8, class: "base" }),
      line !== null && svg("line", { x1: mid(line), x2: mid(line), y1: 0, y2: 16, class: "line" }),
      from !== null && svg("line", { x1: mid(from), x2: mid(till), y1: 8, y2: 8, class: "span" }),
      mean !== null && svg("circle", { cx: mid(mean), cy: 8, r: 3.6, class: "dot" }),
    );
  }

  /** A bar from 0 to `scale` behind a number. */
  function bar(value, scale, digits = 2) {
    const share = value === null ? 0 : Math.max(0, Math.min(1, value / scale));
    return el(
      "span",
      { cls: "bar" },
      el("span", { cls: "full", "aria-hidden": "true", css: { width: `${(100 * share).toFixed(1)}%` } }),
      el("span", { cls: "value" }, number(value, digits)),
    );
  }

  /** Text with `code` between backticks. */
  const prose = (text) => text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));

  const grid = (head, rows, caption) =>
    el(
      "div",
      { cls: "scroll", tabIndex: 0, role: "region", "aria-label": caption },
      el(
        "table",
        {},
        el("thead", {}, el("tr", {}, head.map((cell) => el("th", { scope: "col" }, cell)))),
        el(
          "tbody",
          {},
          rows.map((row) => el("tr", {}, row.map((cell, i) => (i ? el("td", {}, cell) : el("th", { scope: "row" }, cell))))),
        ),
      ),
    );

  /** A frame around a scrolled table, and a button that counts the columns cut off to the right and goes there. */
  function sideways(place) {
    const go = () => {
      place.focus({ preventScroll: true }); // the button may go, and arrows scroll on from here
      place.scrollLeft += 0.6 * place.clientWidth;
    };
    const more = el("button", { type: "button", cls: "quiet more", hidden: true, on: { click: go } });
    const frame = el("div", { cls: "frame" }, place);
    function look() {
      const end = place.getBoundingClientRect().left + place.clientLeft + place.clientWidth;
      const cut = [...place.querySelectorAll("thead th")].filter((cell) => cell.getBoundingClientRect().right > end + 1);
      more.hidden = cut.length === 0;
      more.textContent = `${many(cut.length, "more column")} to the right →`;
      frame.classList.toggle("cut", cut.length > 0);
    }
    place.addEventListener("scroll", look);
    new ResizeObserver(look).observe(place);
    return { frame, more, look };
  }

  /** A section's tables, lists and paragraphs. */
  const blocks = (parts, caption) =>
    parts.map(({ table, list, text }) => {
      if (table) return grid(table[0], table.slice(1), caption);
      if (list) return el("ul", {}, list.map((item) => el("li", {}, prose(item))));
      return el("p", {}, prose(text));
    });

  /** A section to open; a long heading is cut short, and stands whole inside. */
  function fold(heading, content, open = false) {
    const [short] = heading.length > 75 ? heading.split(/ \(|: |, (?=method|mean)| by overall/) : [heading];
    const whole = short !== heading && el("p", { cls: "note" }, heading);
    return el("details", { open }, el("summary", {}, short.replace(/[:.]$/, "")), el("div", { cls: "inside" }, whole, content));
  }

  const failure = (error) => el("p", { cls: "empty", role: "alert" }, error.message);

  return { surface, glyph, chip, choice, whisker, bar, prose, grid, sideways, blocks, fold, failure };
})();
