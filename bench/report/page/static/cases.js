// Which cases of a table to show and in what order, from its index alone; and the search through its answers.
//
// A case is one instruction of one concept on one split. The index holds, for each case and method, the overall
// rating by the table's judge (`first`), by another (`second`) and the largest gap of any axis, in hundredths.
"use strict";

bench.cases = (() => {
  const { load } = bench;
  const [CONCEPT, SPLIT, ID, TEXT, FILE, AT] = [0, 1, 2, 3, 4, 5];

  // How far a case's answers are apart, and whose: `[value in hundredths, row, other row]`; null if unknown.
  const largest = (gap) => (index, rows, width, i) => {
    let found = null;
    for (const row of rows) {
      const value = gap(index, i * width + row);
      if (value !== null && (found === null || value > found[0])) found = [value, row];
    }
    return found;
  };
  const judges = largest(({ first, second }, at) =>
    (first[at] ?? null) === null || (second[at] ?? null) === null ? null : Math.abs(first[at] - second[at]),
  );
  const axis = largest(({ gap }, at) => gap[at] ?? null);
  function methods(index, rows, width, i) {
    let [low, high, known] = [null, null, 0];
    for (const row of rows) {
      const value = index.first[i * width + row];
      if (value === null) continue;
      known += 1;
      if (low === null || value < low[0]) low = [value, row];
      if (high === null || value > high[0]) high = [value, row];
    }
    return known < 2 ? null : [high[0] - low[0], high[1], low[1]];
  }
  const SORTS = { judges, axis, methods, order: () => null };

  /** Positions in the index with what they are sorted by, largest first; ties in the order of the data. */
  function arrange(index, width, { split, concept, rows, sort, accept }) {
    const found = [];
    const measure = SORTS[sort] || SORTS.order;
    index.cases.forEach((one, i) => {
      if (one[SPLIT] !== split || (concept !== null && one[CONCEPT] !== concept)) return;
      if (accept && !accept(i)) return;
      found.push([i, measure(index, rows, width, i)]);
    });
    if (sort !== "order") found.sort((a, b) => (b[1] ? b[1][0] : -1) - (a[1] ? a[1][0] : -1) || a[0] - b[0]);
    return found;
  }

  const described = (index, one) => ({
    id: one[ID],
    split: one[SPLIT],
    concept: index.concepts[one[CONCEPT]][0],
    about: index.concepts[one[CONCEPT]][1],
    instruction: index.instructions[one[TEXT]],
    file: index.files[one[FILE]],
    at: one[AT],
  });

  /** Cases whose instruction or concept has `text`. */
  function named(index, text) {
    const has = (value) => value.toLowerCase().includes(text);
    const concepts = index.concepts.map(([id, about]) => has(id) || has(about));
    const instructions = index.instructions.map(has);
    return new Set(index.cases.flatMap((one, i) => (concepts[one[CONCEPT]] || instructions[one[TEXT]] ? [i] : [])));
  }

  /** Read the answers of the cases file by file; `report(found, done, all)` after each; stops when `stale()`. */
  async function search(key, index, { split, concept, rows }, text, report, stale) {
    const wanted = new Set(rows);
    const byFile = new Map();
    index.cases.forEach((one, i) => {
      if (one[SPLIT] !== split || (concept !== null && one[CONCEPT] !== concept)) return;
      if (!byFile.has(one[FILE])) byFile.set(one[FILE], []);
      byFile.get(one[FILE]).push(i);
    });
    let done = 0;
    for (const [file, cases] of byFile) {
      const { cases: answers } = await load(`${key}/${index.files[file]}`);
      if (stale()) return;
      done += 1;
      const found = cases.filter((i) =>
        answers[index.cases[i][AT]].some((a) => wanted.has(a[0]) && a[3].toLowerCase().includes(text)),
      );
      report(found, done, byFile.size);
    }
  }

  return { arrange, described, named, search };
})();
