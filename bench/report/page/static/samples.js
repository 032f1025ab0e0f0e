// The sample explorer: cases in a list that draws only what is in sight, and the answers of the chosen one.
"use strict";

bench.views.samples = (() => {
  const { el, to, here, mark, load, overview, many, cases, answers } = bench;
  const { choice, chip, glyph, failure } = bench.parts;
  const HEIGHT = 84; // of a row of the list, as in style.css
  const SPLITS = ["test", "select"];

  /** A list of any length: rows are made as they come into sight. */
  function rolling(render, choose) {
    let found = [];
    let chosen = -1;
    const inner = el("div", { cls: "inner" });
    const outer = el("div", { cls: "list", tabIndex: 0, role: "listbox", "aria-label": "Cases" }, inner);
    function draw() {
      const from = Math.max(0, Math.floor(outer.scrollTop / HEIGHT) - 4);
      const till = Math.min(found.length, Math.ceil((outer.scrollTop + outer.clientHeight) / HEIGHT) + 4);
      inner.style.setProperty("height", `${found.length * HEIGHT}px`);
      inner.replaceChildren(
        ...found.slice(from, till).map((one, k) =>
          el(
            "div",
            {
              cls: "case",
              role: "option",
              id: `case-${from + k}`,
              "aria-selected": String(from + k === chosen),
              "aria-setsize": found.length,
              "aria-posinset": from + k + 1,
              css: { top: `${(from + k) * HEIGHT}px` },
              on: { click: () => pick(from + k) },
            },
            render(one),
          ),
        ),
      );
      if (chosen >= 0) outer.setAttribute("aria-activedescendant", `case-${chosen}`);
      else outer.removeAttribute("aria-activedescendant");
    }
    function pick(at) {
      if (!found.length) return;
      chosen = Math.max(0, Math.min(found.length - 1, at));
      const top = chosen * HEIGHT;
      if (top < outer.scrollTop) outer.scrollTop = top;
      if (top + HEIGHT > outer.scrollTop + outer.clientHeight) outer.scrollTop = top + HEIGHT - outer.clientHeight;
      draw();
      choose(found[chosen]);
    }
    outer.addEventListener("scroll", () => requestAnimationFrame(draw));
    outer.addEventListener("keydown", (event) => {
      const page = Math.max(1, Math.floor(outer.clientHeight / HEIGHT) - 1);
      const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
      if (!(event.key in moves)) return;
      event.preventDefault();
      pick(chosen < 0 ? 0 : chosen + moves[event.key]);
    });
    new ResizeObserver(draw).observe(outer);
    return {
      node: outer,
      show(list, current) {
        found = list;
        chosen = found.findIndex(current);
        if (chosen >= 0) outer.scrollTop = Math.max(0, (chosen - 1) * HEIGHT);
        else outer.scrollTop = 0;
        draw();
      },
      pick,
      size: () => found.length,
      chosen: () => chosen,
    };
  }

  function explorer(table, index, query) {
    const width = table.rows.length;
    const names = table.rows.map((row) => row.name);
    const both = index.cases.some((one) => one[1] === 1);
    const sorts = [
      index.gap.length > 0 && ["judges", "judges disagree most"],
      index.gap.length > 0 && ["axis", "… on any one axis"],
      width > 1 && ["methods", "methods differ most"],
      ["order", "order of the data"],
    ].filter(Boolean);
    const state = {
      split: both && query.get("split") === "select" ? 1 : 0,
      concept: query.get("c") || "",
      methods: new Set(query.getAll("m").filter((name) => names.includes(name))),
      sort: sorts.some(([key]) => key === query.get("sort")) ? query.get("sort") : sorts[0][0],
      text: query.get("q") || "",
      case: query.get("case") ? [query.get("in") || "", query.get("case")] : null,
    };
    let hits = null; // cases that have the text, while one is searched for
    let turn = 0; // of the search; an older one is stale

    const status = el("p", { cls: "count", role: "status" });
    const detail = el("div", { cls: "detail", "aria-live": "polite" });
    const rows = () => names.flatMap((name, i) => (state.methods.size && !state.methods.has(name) ? [] : [i]));
    const concept = () => {
      const at = index.concepts.findIndex(([id]) => id === state.concept);
      return at < 0 ? null : at;
    };
    const sort = () => (state.split === 1 && state.sort !== "order" ? "methods" : state.sort);
    const wanted = () => state.text.trim().toLowerCase();

    function remember() {
      mark(
        to(["samples", table.key], {
          split: state.split ? "select" : "",
          c: state.concept,
          m: [...state.methods],
          sort: state.sort === sorts[0][0] ? "" : state.sort,
          q: state.text,
          in: state.case ? state.case[0] : "",
          case: state.case ? state.case[1] : "",
        }),
      );
    }

    const apart = (measure) => {
      if (!measure) return null;
      const [value, one, other] = measure;
      if (value === 0) return [answers.gap(0), "", "all alike"];
      return other === undefined ? [answers.gap(value), "judges on ", names[one]] : [answers.gap(value), "", `${names[one]} over ${names[other]}`];
    };

    function item([i, measure]) {
      const one = cases.described(index, index.cases[i]);
      const found = apart(measure);
      return [
        el("span", { cls: "ask", dir: "auto" }, one.instruction || one.id),
        el("span", { cls: "meta" }, el("span", { cls: "tag" }, one.concept), found && el("span", { cls: "gap" }, el("b", {}, found[0]), ` ${found[1]}${found[2]}`)),
      ];
    }

    async function open([i, measure]) {
      const one = cases.described(index, index.cases[i]);
      state.case = [one.concept, one.id];
      remember();
      let file;
      try {
        file = await load(`${table.key}/${one.file}`);
      } catch (error) {
        detail.replaceChildren(failure(error));
        return;
      }
      if (!state.case || state.case[0] !== one.concept || state.case[1] !== one.id) return; // another was chosen since
      const chosen = new Set(rows());
      const own = file.cases[one.at].filter((answer) => chosen.has(answer[answers.ROW]));
      const lead = measure ? measure.slice(1) : [];
      const across = both && ((name) => to(["samples", table.key], { split: "select", c: one.concept, m: name }));
      const found = apart(measure);
      const shared = { judges: index.judges, prompts: file.prompts, query: wanted() };
      detail.replaceChildren(el(
        "div",
        {},
        el("p", { cls: "over" }, `${one.id} · ${SPLITS[one.split]} split`),
        el("h2", { dir: "auto" }, one.instruction || one.id),
        el("p", { cls: "concept" }, "Concept: ", el("b", {}, one.concept), ` – ${one.about}`),
        found && el("p", { cls: "largest" }, "Largest disagreement: ", el("b", {}, found[0]), ` of ${table.scale} (${found[1]}${found[2]})`),
        el("p", { cls: "count" }, many(own.length, "answer")),
        own.length === 0 && el("p", { cls: "empty" }, "None of the methods chosen answered this."),
        el("div", {}, one.split === 1 ? answers.bySetting(own, table, shared, lead) : answers.byMethod(own, table, shared, lead, across)),
      ));
    }

    const list = rolling(item, open);

    function show(follow = true) {
      const accept = hits && ((i) => hits.has(i));
      const found = cases.arrange(index, width, { split: state.split, concept: concept(), rows: rows(), sort: sort(), accept });
      const current = ([i]) => {
        const one = cases.described(index, index.cases[i]);
        return state.case !== null && one.concept === state.case[0] && one.id === state.case[1];
      };
      list.show(found, current);
      if (!hits) status.textContent = many(found.length, "case");
      remember();
      if (!follow) return;
      if (list.chosen() >= 0) open(found[list.chosen()]);
      else if (found.length) list.pick(0);
      else detail.replaceChildren(el("p", { cls: "empty" }, "Nothing matches."));
    }

    async function seek() {
      const mine = ++turn;
      const text = wanted();
      hits = text ? cases.named(index, text) : null;
      show();
      if (!text) return;
      const where = { split: state.split, concept: concept(), rows: rows() };
      const end = (done, all) => {
        status.textContent = `${many(list.size(), "case")} with “${state.text}”; ${done} of ${many(all, "file")} searched`;
      };
      let drawn = performance.now();
      try {
        await cases.search(table.key, index, where, text, (found, done, all) => {
          const fresh = found.filter((i) => !hits.has(i));
          fresh.forEach((i) => hits.add(i));
          if (done === all || performance.now() - drawn > 300) {
            drawn = performance.now();
            show(done === all || list.chosen() < 0);
          }
          end(done, all);
        }, () => mine !== turn);
      } catch (error) {
        status.textContent = error.message;
      }
    }
    const again = () => (state.text.trim() ? seek() : ((hits = null), (turn += 1), show()));

    let waiting = 0;
    const search = el("input", {
      type: "search",
      id: "search",
      value: state.text,
      placeholder: "in instructions and answers",
      on: {
        input: (event) => {
          state.text = event.target.value;
          clearTimeout(waiting);
          waiting = setTimeout(again, 250);
        },
      },
    });
    const chips = el("div", { cls: "chips", role: "group", "aria-label": "Methods shown" });
    const all = el("summary", {});
    function methods() {
      all.textContent = state.methods.size ? `Methods: ${[...state.methods].join(", ")}` : `Methods: all ${width}`;
      chips.replaceChildren(
        chip("All", state.methods.size === 0, () => {
          state.methods.clear();
          methods();
          again();
        }),
        ...table.rows.map((row) =>
          chip([glyph(row.surface), ` ${row.name}`], state.methods.has(row.name), () => {
            if (!state.methods.delete(row.name)) state.methods.add(row.name);
            methods();
            again();
            chips.querySelector(`[data-name="${CSS.escape(row.name)}"]`).focus();
          }, { "data-name": row.name }),
        ),
      );
    }
    methods();
    const first = el("div", {});
    function sorting() {
      const off = (key) => state.split === 1 && (key === "judges" || key === "axis"); // others rate the test split alone
      first.replaceChildren(choice("First", sorts.map(([key, text]) => [key, text, off(key)]), sort(), (v) => set("sort", v)));
    }
    const set = (key, value) => {
      state[key] = value;
      if (key === "split") sorting();
      state.case = null; // a new order is read from its top
      again();
    };
    const controls = el(
      "div",
      { cls: "controls" },
      choice("Split", [["0", "test"], ["1", both ? "select, every coefficient" : "select (not kept)", !both]], String(state.split), (v) => set("split", Number(v))),
      choice("Concept", [["", `all ${index.concepts.length}`], ...index.concepts.map(([id]) => [id, id])], state.concept, (v) => set("concept", v)),
      first,
      el("label", { cls: "choice grow" }, el("span", {}, "Search"), search),
    );
    sorting();
    queueMicrotask(() => (state.text.trim() ? seek() : show()));
    return [
      controls,
      el("details", { cls: "pick", open: state.methods.size > 0 }, all, chips),
      status,
      el("div", { cls: "explorer" }, list.node, detail),
    ];
  }

  return ([key], query) => {
    const tables = overview().tables.filter((one) => one.answers);
    const table = tables.find((one) => one.key === key) || tables[0];
    const head = el(
      "section",
      { cls: "hero slim" },
      el("h1", {}, "Samples"),
      el("p", { cls: "lead" }, "What the methods answered to the same instruction, how the judges rated it, and where they disagree most."),
    );
    if (!table) return [head, el("p", { cls: "empty" }, "No table of this report keeps answers: its tasks score labelled texts.")];
    const place = el("div", {}, el("p", { cls: "empty" }, "Loading …"));
    load(`${table.key}/index`)
      .then((index) => place.replaceChildren(...explorer(table, index, query)))
      .catch((error) => place.replaceChildren(failure(error)));
    return [
      head,
      tables.length > 1
        ? el("div", { cls: "controls" }, choice("Table", tables.map((one) => [one.key, one.title]), table.key, (v) => (location.hash = to(["samples", v]))))
        : el("p", { cls: "over" }, table.title),
      place,
    ];
  };
})();
