// The front page: what may be claimed, then one table, sortable and filterable, with what stands below it.
"use strict";

bench.views.table = (() => {
  const { el, number, interval, ranks, chance, to, here, mark, overview, many } = bench;
  const { surface, glyph, chip, whisker, prose, grid, blocks, fold, choice, sideways } = bench.parts;
  const KINDS = [
    ["task", "Task"],
    ["data", "Data"],
    ["model", "Model"],
    ["preset", "Preset"],
  ];

  const find = (key) => overview().tables.find((one) => one.key === key);

  function card(one, current) {
    const word = one.verdict.word;
    const [, ...rest] = one.title.split(" · "); // whatever tells it from other tables of its task stands in its title
    return el(
      "a",
      { cls: "card", href: to(["table", one.key]), "aria-current": one.key === current ? "true" : undefined },
      el("span", { cls: "word" }, word),
      el("span", { cls: "where" }, `${one.task} (${one.data})`),
      el("span", { cls: "what" }, rest.join(" · ")),
      el("span", { cls: "text" }, one.verdict.text),
    );
  }

  /** The tables as cards, narrowed by task, data, model and preset where there are several. */
  function picker(current) {
    const tables = overview().tables;
    const wanted = {};
    const cards = el("div", { cls: "cards" });
    const draw = () =>
      cards.replaceChildren(
        ...tables.filter((one) => KINDS.every(([kind]) => !wanted[kind] || one[kind] === wanted[kind])).map((one) => card(one, current)),
      );
    const narrow = KINDS.map(([kind, label]) => [kind, label, [...new Set(tables.map((one) => one[kind]))]])
      .filter(([, , values]) => values.length > 1)
      .map(([kind, label, values]) =>
        choice(label, [["", "all"], ...values.map((v) => [v, v])], "", (value) => {
          wanted[kind] = value;
          draw();
        }),
      );
    draw();
    return [tables.length > 3 && el("div", { cls: "controls" }, narrow), cards];
  }

  function claims(one) {
    const { word, text, numbers, claimed, open, caveats } = one.verdict;
    const list = (items, none) =>
      items.length ? el("ul", {}, items.map((item) => el("li", {}, prose(item)))) : el("p", {}, none);
    return el(
      "section",
      { cls: "verdict", "aria-labelledby": "answer" },
      el("p", { cls: "over" }, one.title),
      el("h2", { id: "answer" }, el("span", { cls: "word" }, `${word}.`), ` ${text}`),
      numbers && el("p", { cls: "numbers" }, numbers),
      claimed.length + open.length > 0 && [
        el("p", { cls: "over" }, "Method by method, corrected for all of them:"),
        el(
          "div",
          { cls: "pair" },
          el("div", {}, el("h3", {}, "Claimed"), list(claimed, "Nothing.")),
          el("div", {}, el("h3", {}, "Not claimed"), list(open, "Every comparison is settled.")),
        ),
      ],
      caveats.length > 0 && el("ul", { cls: "caveats" }, caveats.map((item) => el("li", {}, item))),
    );
  }

  /** The columns of a table: heading, what to sort by, what to show; `extra` ones are hidden until they are asked for. */
  function columns(one) {
    const digits = one.scale > 1 ? 2 : 3;
    const ends = one.rows.flatMap((row) => (row.delta ? row.delta.filter((v) => v !== null) : []));
    const most = Math.max(0.01, ...ends.map(Math.abs));
    const base = one.rows.find((row) => row.name === one.reference);
    const line = base ? base.scores[0][0] : null;
    const score = (row, i) => [
      el("b", {}, number(row.scores[i][0], digits)),
      el("span", { cls: "ci" }, ` ${interval(row.scores[i], digits)}`),
    ];
    const delta = (row) => {
      if (!row.delta) return el("span", { cls: "ci" }, row.name === one.reference ? "reference" : "–");
      return [
        whisker(row.delta, -most, most, 0, row.surface),
        el("b", {}, number(row.delta[0], digits, true)),
        el("span", { cls: "ci" }, ` ${interval(row.delta, digits, true)}`),
      ];
    };
    return [
      { key: "rank", label: "Rank", by: (r) => (r.rank ? r.rank[0] + r.rank[1] / 1e4 : null), up: true, cell: (r) => ranks(r.rank) || "not ranked" },
      {
        key: "method",
        label: "Method",
        fixed: true,
        by: (r) => r.name,
        up: true,
        cell: (r) => el("a", { href: to(["method", r.method], { table: one.key }) }, r.name),
      },
      {
        key: "overall",
        label: "Overall",
        by: (r) => r.scores[0][0],
        cell: (r) => [whisker(r.scores[0], 0, one.scale, line, r.surface), score(r, 0)],
      },
      { key: "delta", label: `Δ to ${one.reference || "prompt"}`, by: (r) => r.delta && r.delta[0], cell: delta },
      { key: "p", label: "p (Holm)", by: (r) => r.p, up: true, cell: (r) => chance(r.p) },
      ...one.axes.slice(1).map((axis, i) => ({
        key: axis,
        label: axis,
        by: (r) => r.scores[i + 1][0],
        cell: (r) => score(r, i + 1),
      })),
      {
        key: "surface",
        label: "Surface",
        by: (r) => r.surface,
        up: true,
        cell: (r) => [surface(r.surface), ...r.remarks.map((said) => ` ${said}`)],
      },
      one.judge && {
        key: "c",
        label: "c",
        by: (r) => r.coefficient,
        up: true,
        cell: (r) => (r.coefficient === null ? "–" : String(r.coefficient)),
      },
      { key: "missing", label: "Missing", by: (r) => r.missing, cell: (r) => String(r.missing) },
      one.answers && {
        key: "answers",
        label: "Answers",
        by: (r) => r.generations,
        cell: (r) =>
          el(
            "a",
            { href: to(["samples", one.key], { m: r.name }), "aria-label": `Answers of ${r.name}` },
            r.generations.toLocaleString("en"),
          ),
      },
      ...one.costs.map((label, i) => ({
        key: `cost-${i}`,
        label,
        extra: true,
        by: (r) => r.cost && r.cost[i][1],
        up: true,
        cell: (r) => (r.cost ? r.cost[i][0] : "–"),
      })),
    ].filter(Boolean);
  }

  const unknown = (v) => v === null || v === undefined;
  function compare(a, b, up) {
    if (unknown(a) || unknown(b)) return unknown(a) - unknown(b); // what is not known stands last, either way
    const order = typeof a === "string" ? a.localeCompare(b) : a - b;
    return up ? order : -order;
  }

  function board(one) {
    const asked = here().query;
    const state = {
      sort: asked.get("sort") || "overall",
      up: asked.get("up") === "1",
      text: asked.get("q") || "",
      off: new Set((asked.get("off") || "").split(",").filter(Boolean)),
    };
    const every = columns(one);
    const chosen = bench.columns.chooser(one.kind, every, asked.getAll("turn"), () => draw());
    const place = el("div", { cls: "scroll", tabIndex: 0, role: "region", "aria-label": "Leaderboard" });
    const wide = sideways(place);
    const count = el("p", { cls: "count", role: "status" });

    function head(column) {
      const sorted = column.key === state.sort;
      const turn = () => {
        state.up = sorted ? !state.up : Boolean(column.up);
        state.sort = column.key;
        draw();
        place.querySelector(`[data-key="${CSS.escape(column.key)}"]`).focus();
      };
      return el(
        "th",
        { scope: "col", "aria-sort": sorted ? (state.up ? "ascending" : "descending") : undefined, cls: `c-${column.key}` },
        el("button", { type: "button", "data-key": column.key, on: { click: turn } }, column.label, el("span", { "aria-hidden": "true", cls: "arrow" }, sorted ? (state.up ? " ▲" : " ▼") : "")),
      );
    }

    function draw() {
      const shown = chosen.shown();
      const by = every.find((column) => column.key === state.sort) || every[2];
      const rows = one.rows
        .filter((row) => !state.off.has(row.surface) && row.name.toLowerCase().includes(state.text.toLowerCase()))
        .sort((a, b) => compare(by.by(a), by.by(b), state.up));
      const body = rows.map((row) =>
        el(
          "tr",
          { cls: row.name === one.reference ? "reference" : undefined, "data-method": row.name },
          shown.map((column) =>
            el(column.key === "method" ? "th" : "td", { scope: column.key === "method" ? "row" : undefined, cls: `c-${column.key}` }, column.cell(row)),
          ),
        ),
      );
      place.replaceChildren(el("table", { cls: "board" }, el("thead", {}, el("tr", {}, shown.map(head))), el("tbody", {}, body)));
      wide.look();
      count.textContent = rows.length === one.rows.length ? many(rows.length, "method") : `${rows.length} of ${many(one.rows.length, "method")}`;
      mark(
        to(["table", one.key], {
          sort: state.sort === "overall" ? "" : state.sort,
          up: state.up ? "1" : "",
          q: state.text,
          off: [...state.off].join(","),
          turn: [...chosen.turned],
        }),
      );
    }

    const surfaces = [...new Set(one.rows.map((row) => row.surface))].map((name) =>
      chip(surface(name), !state.off.has(name), (event) => {
        const off = !state.off.delete(name) && state.off.add(name);
        event.currentTarget.setAttribute("aria-pressed", String(!off));
        draw();
      }),
    );
    const controls = el(
      "div",
      { cls: "controls" },
      el(
        "label",
        { cls: "choice" },
        el("span", {}, "Method"),
        el("input", { type: "search", id: "filter", value: state.text, placeholder: "filter by name", on: { input: (event) => ((state.text = event.target.value), draw()) } }),
      ),
      el("div", { cls: "chips", role: "group", "aria-label": "Surfaces shown" }, surfaces),
      chosen.costs,
      count,
      wide.more,
    );
    draw();
    return [controls, chosen.node, wide.frame];
  }

  /** Where the task ran on several models: a row a method, a column a model, each with its own table's numbers. */
  function across(one) {
    return overview()
      .across.filter(({ models }) => models.some(([, key]) => key === one.key))
      .map(({ title, note, models, scale, rows }) => {
        const digits = scale > 1 ? 2 : 3;
        const ends = rows.flatMap((row) => row.cells.flatMap((found) => (found && found.delta ? found.delta : [])));
        const most = Math.max(0.01, ...ends.map(Math.abs));
        const cell = (row, found) => [
          el("b", {}, number(found.score[0], digits)),
          el("span", { cls: "ci" }, ` ${interval(found.score, digits)}`),
          el(
            "div",
            { cls: "gap" },
            found.delta && whisker(found.delta, -most, most, 0, row.surface),
            found.delta ? `Δ ${number(found.delta[0], digits, true)}` : found.reference ? "its best prompt" : "",
            found.delta && el("span", { cls: "ci" }, ` ${interval(found.delta, digits, true)}`),
          ),
        ];
        const name = (row) => [glyph(row.surface), " ", el("a", { href: to(["method", row.method], { table: one.key }) }, row.name)];
        const head = ["method", ...models.map(([model, key]) => (key === one.key ? model : el("a", { href: to(["table", key]) }, model)))];
        const body = rows.map((row) => [name(row), ...row.cells.map((found) => found && cell(row, found))]);
        return el("section", { cls: "across" }, el("h2", {}, title), el("p", { cls: "note" }, note), grid(head, body, title));
      });
  }

  function below(one) {
    const open = (heading) => /^(Validity|Prompting against)/.test(heading);
    return [
      fold("How to read this table", el("ul", {}, one.notes.map((note) => el("li", {}, prose(note)))), true),
      ...one.sections.map(({ heading, parts }) => fold(heading, blocks(parts, heading), open(heading))),
      one.figures.length > 0 &&
        el(
          "section",
          { cls: "figures" },
          el("h2", {}, "Figures"),
          one.figures.map(([name, caption]) => {
            const image = el("img", { src: encodeURI(name), alt: `${caption}: ${one.title}`, loading: "lazy" });
            return el("figure", {}, el("a", { href: encodeURI(name) }, image), el("figcaption", {}, `${caption}.`));
          }),
        ),
    ];
  }

  return ([key]) => {
    const one = find(key) || overview().tables[0];
    return [
      el(
        "section",
        { cls: "hero" },
        el("h1", {}, "Should I steer this model, or just prompt it?"),
        el("p", { cls: "answer-first" }, overview().lead),
        el(
          "p",
          { cls: "lead" },
          "Steering methods against a tuned prompt on equal terms: same sampler, same splits, the same number of judged trials, paired intervals over concepts, and the answers behind every number.",
        ),
        picker(one.key),
      ),
      claims(one),
      board(one),
      across(one),
      el("div", { cls: "below" }, below(one)),
    ];
  };
})();
