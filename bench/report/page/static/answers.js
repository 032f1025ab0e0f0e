// The answers to one instruction side by side: by method on the test split, by method and coefficient on the other.
"use strict";

bench.answers = (() => {
  const { el, number, to, brief, many } = bench;
  const { surface, bar } = bench.parts;
  const [ROW, CANDIDATE, COEFFICIENT, TEXT, TOKENS, TOUCHED, JUDGED, PICKED] = [0, 1, 2, 3, 4, 5, 6, 7];
  const APART = 0.5; // of the scale: a gap worth a mark

  /** The text with what was searched for marked. */
  function marked(text, query) {
    if (!query) return text;
    const found = [];
    const lower = text.toLowerCase();
    if (lower.length !== text.length) return text; // positions would not fit
    let from = 0;
    for (let at = lower.indexOf(query); at >= 0; at = lower.indexOf(query, from)) {
      found.push(text.slice(from, at), el("mark", {}, text.slice(at, at + query.length)));
      from = at + query.length;
    }
    return [...found, text.slice(from)];
  }

  function ratings(answer, table, judges) {
    const values = answer[JUDGED].map((one) => one[1]);
    const apart = table.axes.map((_, a) => {
      const known = values.map((v) => v[a]).filter((v) => v !== null && v !== undefined);
      return known.length > 1 && Math.max(...known) - Math.min(...known) >= APART * table.scale;
    });
    return el(
      "table",
      { cls: "ratings" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "judge"), table.axes.map((axis, a) => el("th", { scope: "col" }, axis, apart[a] && el("span", { cls: "apart", title: "the judges are far apart" }, " ≠"))))),
      el(
        "tbody",
        {},
        answer[JUDGED].map(([judge, rated]) =>
          el("tr", {}, el("th", { scope: "row" }, judges[judge] || "labels"), rated.map((value) => el("td", {}, bar(value ?? null, table.scale)))),
        ),
      ),
    );
  }

  /** What the judges said of it, and why a rating is missing. */
  function reasons(answer, judges) {
    const lines = answer[JUDGED].flatMap(([judge, , said = [], why = []]) => [
      ...said.map(([axis, text]) => [`${judges[judge]} on ${axis}`, text]),
      ...why.map(([axis, text]) => [`no ${axis} by ${judges[judge]}`, text]),
    ]);
    const missing = answer[JUDGED].some(([, , , why = []]) => why.length);
    return (
      lines.length > 0 &&
      el(
        "details",
        { cls: "reasons", open: missing },
        el("summary", {}, "What the judge said"),
        el("dl", {}, lines.map(([who, text]) => [el("dt", {}, who), el("dd", {}, text)])),
      )
    );
  }

  /** What stood around the question, in the order in which the model reads it; shown short until it is opened. */
  function around(answer, table, prompts) {
    const found = prompts.find(([row, candidate]) => row === answer[ROW] && candidate === answer[CANDIDATE]);
    if (!found) return table.rows[answer[ROW]].surface === "prompt" && el("p", { cls: "note" }, "Its prompt is not in the record.");
    const { system, shots = [], prefix = "", suffix = "" } = found[2];
    const parts = [
      system && ["system message", system],
      ...shots.flatMap(([asked, answered], i) => [
        [`example ${i + 1}, user`, asked],
        [`example ${i + 1}, model`, answered],
      ]),
      (prefix || suffix) && ["user", [prefix, el("i", {}, "the instruction above"), suffix]],
    ].filter(Boolean);
    const brief = [system, shots.length > 0 && many(shots.length, "example"), prefix, suffix].filter(Boolean).join(" … ");
    return el(
      "details",
      { cls: "reasons around" },
      el("summary", { dir: "auto" }, el("b", {}, "Prompt: "), brief),
      el("dl", {}, parts.map(([who, text]) => [el("dt", {}, who), el("dd", { dir: "auto" }, text)])),
    );
  }

  /** `shared` is what all answers of a case have: the judges, the prompts and what is searched for. */
  function card(answer, heading, table, { judges, prompts, query }, extra) {
    const facts = [
      answer[TOKENS] > 0 && many(answer[TOKENS], "token"),
      answer[TOUCHED] > 0 && `${answer[TOUCHED]} positions steered`,
    ].filter(Boolean);
    return el(
      "article",
      { cls: `answer${extra && extra.picked ? " picked" : ""}`, "data-method": table.rows[answer[ROW]].name },
      el("header", {}, heading),
      around(answer, table, prompts),
      answer[TEXT].trim() ? el("p", { cls: "text", dir: "auto" }, marked(answer[TEXT], query)) : el("p", { cls: "text none" }, "(an empty answer)"),
      ratings(answer, table, judges),
      reasons(answer, judges),
      el("footer", {}, facts.join(" · "), extra && extra.more),
    );
  }

  const setting = (answer) => (answer[CANDIDATE] ? `candidate ${answer[CANDIDATE]}, ` : "") + `c = ${brief(answer[COEFFICIENT])}`;

  /** Cards of a test case, the row named by `first` leading. */
  function byMethod(answers, table, shared, lead, across) {
    const place = (a) => (lead.includes(a[ROW]) ? lead.indexOf(a[ROW]) - lead.length : a[ROW]);
    return el(
      "div",
      { cls: "answers" },
      [...answers]
        .sort((a, b) => place(a) - place(b))
        .map((answer) => {
          const row = table.rows[answer[ROW]];
          const heading = [
            el("a", { cls: "name", href: to(["method", row.method], { table: table.key }) }, row.name),
            el("span", {}, surface(row.surface), row.coefficient !== null && ` · ${setting(answer)}`),
          ];
          const more = across && el("a", { href: across(row.name) }, "other coefficients");
          return card(answer, heading, table, shared, { more });
        }),
    );
  }

  /** A row of cards a method, one card a candidate and coefficient. */
  function bySetting(answers, table, shared, lead) {
    const rows = [...new Set(answers.map((a) => a[ROW]))];
    const place = (row) => (lead.includes(row) ? lead.indexOf(row) - lead.length : row);
    return rows
      .sort((a, b) => place(a) - place(b))
      .map((i) => {
        const row = table.rows[i];
        const own = answers.filter((a) => a[ROW] === i).sort((a, b) => a[CANDIDATE] - b[CANDIDATE] || a[COEFFICIENT] - b[COEFFICIENT]);
        return el(
          "section",
          { cls: "sweep" },
          el("h3", {}, el("a", { href: to(["method", row.method], { table: table.key }) }, row.name), " ", surface(row.surface)),
          el(
            "div",
            { cls: "answers line", tabIndex: 0, role: "region", "aria-label": `Answers of ${row.name} by coefficient` },
            own.map((answer) => {
              const picked = Boolean(answer[PICKED]);
              const heading = [el("b", { cls: "name" }, setting(answer)), picked && el("span", { cls: "tag" }, "picked")];
              return card(answer, heading, table, shared, { picked });
            }),
          ),
        );
      });
  }

  const gap = (hundredths) => number(hundredths / 100, 2);
  return { byMethod, bySetting, gap, ROW };
})();
