// What a method is, where it comes from, and how it did concept by concept.
"use strict";

bench.views.methods = (() => {
  const { el, to, ranks, overview } = bench;
  const { surface, glyph } = bench.parts;

  const summary = (one) => {
    const own = one.parts.find(([label]) => !label);
    return own ? own[1] : one.made.length ? `Made of ${one.made.join(" and ")}.` : "";
  };
  const places = (name) =>
    overview().tables.flatMap((table) => table.rows.filter((row) => row.method === name).map((row) => ({ table, row })));

  return () => {
    const all = overview().methods;
    return [
      el("section", { cls: "hero" }, el("h1", {}, "Methods"), el("p", { cls: "lead" }, "Each with its paper, its equation, what differs from the paper, and what it scored here.")),
      ...[...new Set(all.map((one) => one.surface))].map((name) =>
        el(
          "section",
          {},
          el("h2", {}, surface(name)),
          el(
            "div",
            { cls: "cards" },
            all
              .filter((one) => one.surface === name)
              .map((one) =>
                el(
                  "a",
                  { cls: "card small", href: to(["method", one.name]) },
                  el("span", { cls: "word" }, glyph(one.surface), ` ${one.name}`),
                  el("span", { cls: "text" }, summary(one)),
                  el("span", { cls: "what" }, places(one.name).map(({ table, row }) => `${table.task}: rank ${ranks(row.rank) || "–"}`).join(" · ") || "no result in this report"),
                ),
              ),
          ),
        ),
      ),
    ];
  };
})();

bench.views.method = (() => {
  const { el, to, load, overview, number, interval, ranks, chance, brief, many } = bench;
  const { surface, whisker, prose, grid, bar, fold, failure } = bench.parts;

  function paper(text) {
    const found = /^arXiv:(\d{4}\.\d{4,5})$/.exec(text || "");
    if (!found) return text || "no paper";
    return el("a", { href: `https://arxiv.org/abs/${found[1]}`, rel: "noreferrer noopener" }, text);
  }

  function about(one) {
    const labelled = one.parts.filter(([label]) => label);
    const equation = labelled.filter(([label]) => label.startsWith("Equation"));
    const rest = labelled.filter(([label]) => !label.startsWith("Equation"));
    const sets = [
      ["Needs of an engine", one.needs],
      ["Reads", one.views],
      ["Gives", one.gives],
      ["Contract", one.marks],
    ].filter(([, values]) => values && values.length);
    return [
      one.parts.filter(([label]) => !label).map(([, text]) => el("p", { cls: "lead" }, prose(text))),
      one.made.length > 0 &&
        el("p", {}, "Made of ", one.made.map((name, i) => [i > 0 && " and ", el("a", { href: to(["method", name]) }, name)]), "."),
      equation.map(([label, text]) => el("figure", { cls: "equation" }, el("figcaption", {}, label), el("p", {}, prose(text)))),
      rest.map(([label, text]) => el("section", {}, el("h2", {}, label), el("p", {}, prose(text.charAt(0).toUpperCase() + text.slice(1))))),
      sets.length > 0 &&
        el("dl", { cls: "facts" }, sets.map(([name, values]) => [el("dt", {}, name), el("dd", {}, values.join(", "))])),
      one.fields && one.fields.length > 0 && [el("h2", {}, "Parameters"), grid(["field", "default"], one.fields.map(([name, value]) => [el("code", {}, name), el("code", {}, value || "none")]), "Parameters")],
    ];
  }

  /** Overall on the select split under each coefficient tried (the best candidate), the picked one framed. */
  function tried(concept, coefficients, scale) {
    const best = new Map();
    for (const [, c, value] of concept.select) {
      if (value !== null && value !== undefined) best.set(c, Math.max(value, best.has(c) ? best.get(c) : -Infinity));
    }
    return coefficients.map((c) => {
      if (!best.has(c)) return "–";
      const picked = c === concept.picked[1];
      return el("span", { cls: picked ? "picked" : undefined, title: picked ? "picked" : undefined }, bar(best.get(c), scale));
    });
  }

  const notes = (concept) =>
    [
      concept.layers[concept.picked[0]] && concept.layers[concept.picked[0]].length && `block ${concept.layers[concept.picked[0]].join(", ")}`,
      ...Object.entries(concept.note)
        .filter(([name]) => name !== "layer")
        .map(([name, value]) => `${name} ${typeof value === "number" ? brief(value) : typeof value === "string" ? value : JSON.stringify(value)}`),
      ...Object.entries(concept.prompt).map(([name, value]) =>
        name === "shots" ? `${many(value.length, "example turn")}: ${value.map((turn) => turn.join(" → ")).join(" / ")}` : `${name}: ${value.trim()}`,
      ),
    ].filter(Boolean);

  function concepts(table, row, run) {
    const coefficients = [...new Set(run.concepts.flatMap((c) => c.select.map((t) => t[1])))].sort((a, b) => a - b);
    const swept = coefficients.length > 1;
    const candidates = run.concepts.some((c) => c.picked[0] > 0);
    const judges = run.judges;
    const head = [
      "concept",
      ...table.axes,
      ...judges.map((name) => `overall, ${name}`),
      ...(swept ? ["picked c", ...coefficients.map((c) => `at c = ${c}`)] : []),
      ...(candidates ? ["candidate"] : []),
      "notes",
    ];
    const rows = run.concepts.map((concept) => [
      table.answers ? el("a", { href: to(["samples", table.key], { c: concept.id, m: row.name }) }, concept.id) : concept.id,
      ...concept.test.map((value) => bar(value === undefined ? null : value, table.scale, table.scale > 1 ? 2 : 3)),
      ...concept.others.map((value) => bar(value === undefined ? null : value, table.scale)),
      ...(swept ? [String(concept.picked[1]), ...tried(concept, coefficients, table.scale)] : []),
      ...(candidates ? [String(concept.picked[0])] : []),
      el("span", { cls: "note" }, notes(concept).join("; ")),
    ]);
    return grid(head, rows, "Scores by concept");
  }

  function result({ table, row }) {
    const digits = table.scale > 1 ? 2 : 3;
    const place = el("div", {}, el("p", { cls: "empty" }, "Loading …"));
    const reference = table.rows.find((r) => r.name === table.reference);
    load(`${table.key}/${row.file}`)
      .then((run) => {
        const params = Object.entries(run.params).map(([name, value]) => `${name} = ${JSON.stringify(value)}`);
        place.replaceChildren(
          el("p", { cls: "note" }, `Run ${run.id}`, run.commit ? ` at commit ${run.commit.slice(0, 10)}` : "", params.length ? `; ${params.join(", ")}` : ""),
          concepts(table, row, run),
          el("p", { cls: "note" }, "Scores of the test split; “at c” is the overall score on the select split under each coefficient, the picked one framed."),
        );
      })
      .catch((error) => place.replaceChildren(failure(error)));
    return el(
      "section",
      { cls: "result" },
      el("h3", {}, el("a", { href: to(["table", table.key]) }, table.title), row.name !== row.method && ` · ${row.name}`),
      el(
        "p",
        { cls: "score" },
        whisker(row.scores[0], 0, table.scale, reference ? reference.scores[0][0] : null, row.surface),
        el("b", {}, ` ${number(row.scores[0][0], digits)}`),
        ` ${interval(row.scores[0], digits)} overall`,
        row.rank ? `, rank ${ranks(row.rank)}` : ", not ranked",
        row.delta && `; Δ to ${table.reference} ${number(row.delta[0], digits, true)} ${interval(row.delta, digits, true)}, p ${chance(row.p)}`,
        row.name === table.reference && "; the reference of this table",
      ),
      fold(`Concept by concept (${table.concepts.length})`, place, true),
    );
  }

  return ([name], query) => {
    const one = overview().methods.find((m) => m.name === name);
    if (!one) return [el("p", { cls: "empty" }, `No method ${name} is known to this report.`)];
    const found = overview().tables.flatMap((table) => table.rows.filter((r) => r.method === name).map((row) => ({ table, row })));
    found.sort((a, b) => (b.table.key === query.get("table")) - (a.table.key === query.get("table")));
    return [
      el("p", { cls: "over" }, el("a", { href: to(["methods"]) }, "Methods"), " / ", surface(one.surface)),
      el("h1", {}, one.name),
      el("p", { cls: "paper" }, paper(one.paper)),
      about(one),
      el("h2", {}, "Results"),
      found.length ? found.map(result) : el("p", { cls: "empty" }, "This report has no result of it."),
    ];
  };
})();
