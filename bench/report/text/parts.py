"""Below a table of data with parts: methods by part."""

from __future__ import annotations

from bench.report.section import Grid, Section
from bench.report.text.leaderboard import interval
from bench.results.parts import by_part, change, scores
from bench.results.tables import Table


def sections(table: Table) -> list[Section]:
    """One table of `overall`; none where the data has no parts, or nothing can be compared."""
    parts = by_part(table)
    if not parts or table.silent:
        return []
    rows, first, last = [], min(parts), max(parts)
    for row in table.rows:
        found = scores(row.run, parts, "overall")
        cells = [interval(found[part]) if part in found else "–" for part in parts]
        ends = [found[part] for part in (first, last) if part in found]
        rows.append((row.name, *cells, interval(change(*ends), signed=True) if len(ends) == 2 else "–"))
    counts = ", ".join(f"{part} {len(names)}" for part, names in parts.items())
    heading = (
        f"By part of the data, overall ({table.unit}s: {counts}). The last column is {last} less {first}, which have "
        "different concepts and are not paired:"
    )
    return [Section(heading, (Grid(("method", *parts, f"{last} − {first}"), tuple(rows)),))]
