"""Injection: texts of other people in reports, tables, terminals and replays do nothing.

Runs are written whose every text (names of methods, concepts, judges and families, what models wrote, reasons, notes)
is an attack; reports of them are opened in a real browser, where one is installed, and read as CSV, Markdown and SVG.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from click.testing import CliRunner

from bench.cli.main import main
from bench.core.errors import BenchError
from bench.core.escape import CONTROL, NUMBER, csv_text, dumped, name, printable
from bench.report.build import build
from bench.results.runs import load
from bench.run.plan import from_file
from benchmarks.faults.counts import Count

TESTS = Path(__file__).resolve().parents[2] / "tests"
CODE = ("alert(1)", "window.pwned=1", "fetch('http://127.0.0.1:9/')", "location='http://127.0.0.1:9/'")
TAGS = (
    "<script>{}</script>",
    "<img src=x onerror={}>",
    "<svg onload={}>",
    "<a href='javascript:{}'>x</a>",
    "</script><script>{}//",
    "</textarea></title></style><iframe srcdoc='<script>{}</script>'>",
    "<base href=http://127.0.0.1:9/><link rel=stylesheet href=x>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<form action=http://127.0.0.1:9/><button autofocus onfocus={}>",
    '" onmouseover="{}" x="',
    "');{};//",
    "`${{{}}}`",
    "\\u0027);{};//",
)
MARKS = (
    "![x](http://127.0.0.1:9/x.png)",
    "[x](javascript:{})",
    "[^1]: http://127.0.0.1:9",
    "| a | b |\n|---|---|\n| c | d |",
    "# heading\n> quote\n- item\n\n    code",
    "$\\href{{javascript:{}}}{{x}}$",
    "<!-- --> ]]> &lt;script&gt;{}&lt;/script&gt;",
)
CELLS = (
    '=HYPERLINK("http://127.0.0.1:9","x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "'=1",
    " =1",
)
CODES = (
    "\x1b[2J",
    "\x1b]52;c;eA==\x07",
    "\x1b]8;;http://x\x1b\\y",
    "\x9b31m",
    "\x90x\x9c",
    "\u202eabc",
    "\u2066x",
    "\x08\x7f",
)
NAMES = (
    "__proto__",
    "constructor",
    "../../etc/passwd",
    "..",
    "con",
    "x" * 240,
    "a\x00b",
    "\ud800",
    "\u2028\u2029",
    "[/red]",
)


def payloads() -> list[str]:
    """Every attack, each with every piece of code it can carry."""
    templated = [text.replace("{}", code) for text in (*TAGS, *MARKS) for code in CODE]
    return list(dict.fromkeys([*templated, *CELLS, *CODES, *NAMES]))


def cases(root: Path, rng: random.Random) -> Path:
    """Results of four methods in which every text that a person or a model may choose is an attack."""
    from page_cases import Recipe, write

    attacks = payloads()

    def one() -> str:
        return rng.choice(attacks)

    concepts = tuple(dict.fromkeys(one() for _ in range(4)))
    # A name has at least one letter: one of blanks alone is refused.
    methods = (("prompt", "prompt"), (one() + "y", one() + "x"), (one() + "x", "activations"), ("none", "control"))
    recipe = Recipe(methods, concepts, tests=3, selects=1, words=lambda _: one(), said=one(), note=one(), about=one())
    folder = Path(tempfile.mkdtemp(dir=root)) / "results"
    for i, path in enumerate(
        write(dataclasses.replace(recipe, methods=[(f"m{k}", f) for k, (_, f) in enumerate(methods)]), folder)
    ):
        data = json.loads(path.read_text("utf-8"))
        data["spec"]["method"] = methods[i][0]
        data["spec"] |= {"judge": attacks[len(concepts)], "model": "m" + attacks[7]}
        for sample in data["samples"]:
            sample |= {"instruction": one(), "reasons": {"concept": one()}}
        path.write_text(json.dumps(data), "utf-8")
    return folder


def reports(scale: float, rng: random.Random, root: Path) -> list[Count]:
    """Reports of such results as files, and the commands that print them."""
    tried = {"csv": 0, "md": 0, "svg": 0, "terminal": 0}
    wrong = dict.fromkeys(tried, 0)
    outside = left = 0
    for _ in range(max(1, round(40 * scale))):
        folder = cases(root, rng)
        before = set(root.rglob("*"))
        written = build(folder, folder.parent / "reports")
        left += 1
        outside += any(not path.is_relative_to(folder.parent / "reports") for path in set(root.rglob("*")) - before)
        for path in written:
            text = path.read_text("utf-8", errors="replace") if path.suffix in (".csv", ".md", ".svg") else ""
            if path.suffix == ".csv":
                cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
                tried["csv"] += len(cells)
                wrong["csv"] += sum(cell.startswith(tuple("=+-@\t\r")) and not NUMBER.match(cell) for cell in cells)
            elif path.suffix == ".md":
                tried["md"] += text.count("\n")
                wrong["md"] += len(re.findall(r"<(?![>=])[a-zA-Z!/]|(?<!\\)\]\(\s*(?:javascript|http)|https?://", text))
            elif path.suffix == ".svg":
                tried["svg"] += 1
                wrong["svg"] += acts(text)
        runs = [run.path.parent.name for run in load(folder)]
        words = [
            ("list", "runs"),
            ("check", "results"),
            ("compare", *runs[:2]),
            *(("show", run, "-n", "99") for run in runs),
        ]
        for line in words:
            done = CliRunner().invoke(main, [*line, "--results", str(folder)])
            tried["terminal"] += 1
            ended = done.exception is None or isinstance(done.exception, SystemExit)
            wrong["terminal"] += not ended or bool(CONTROL.search(done.stdout + done.stderr))
    return [
        Count("cells of a report's CSV files", tried["csv"], wrong["csv"], "a cell that a spreadsheet would run"),
        Count("lines of its Markdown", tried["md"], wrong["md"], "a tag, or a link that is not the report's own"),
        Count("its SVG figures", tried["svg"], wrong["svg"], "a script or a handler in one"),
        Count(
            "commands that print such results", tried["terminal"], wrong["terminal"], "a control character, a traceback"
        ),
        Count(
            "reports of names such as `..` and `../../etc/passwd`", left, outside, "a file outside the report's folder"
        ),
    ]


def acts(svg: str) -> bool:
    """Whether an SVG is no XML, or has an element, a handler or an address that could act."""
    try:
        parts = list(ElementTree.fromstring(svg).iter())
    except ElementTree.ParseError:
        return True
    names = {part.tag.rpartition("}")[2].lower() for part in parts}
    handlers = any(key.lower().startswith("on") for part in parts for key in part.attrib)
    links = [value for part in parts for key, value in part.attrib.items() if key.rpartition("}")[2] == "href"]
    local = all(link.startswith(("#", "data:image/png")) for link in links)
    return bool(names & {"script", "foreignobject", "a", "iframe"}) or handlers or not local


def texts(scale: float, rng: random.Random) -> list[Count]:
    """Attacks joined at random, through each function that makes a text harmless for a place."""
    attacks, count = payloads(), max(100, round(100_000 * scale))
    wrong = dict.fromkeys(("terminal", "json", "csv", "name"), 0)
    for _ in range(count):
        text = "".join(rng.choice(attacks) for _ in range(rng.randint(1, 3)))
        wrong["terminal"] += bool(CONTROL.search(printable(text)))
        shown = dumped([text])
        wrong["json"] += json.loads(shown) != [text] or bool(CONTROL.search(shown))
        cell = next(csv.reader(io.StringIO(csv_text([{"a": text}]).split("\n", 1)[1], newline="")), [""])[0]
        wrong["csv"] += cell.startswith(tuple("=+-@\t\r")) and not NUMBER.match(cell)
        safe = name(text)
        wrong["name"] += bool(set(safe) & set('/\\:*?"<>|~')) or safe in ("", ".", "..") or len(safe.encode()) > 255
    notes = {
        "terminal": "a character left that steers",
        "json": "another value, or a character that steers",
        "csv": "a cell that a spreadsheet would run",
        "name": "a name that leaves its folder, or that a file system refuses",
    }
    return [Count(f"a text made fit for a {place}", count, wrong[place], notes[place]) for place in wrong]


def browser(scale: float, rng: random.Random, root: Path) -> list[Count]:
    """Every view of the page of such results, opened and clicked through; nothing where no browser is installed."""
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if found is None:
        return []
    from playwright.sync_api import sync_playwright

    views = ran = 0
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        for _ in range(max(1, round(12 * scale))):
            folder = cases(root, rng)
            build(folder, folder.parent / "reports")
            index = (folder.parent / "reports" / "index.html").as_uri()
            context = chromium.new_context()
            page = context.new_page()
            bad: list[str] = []
            page.on("dialog", lambda dialog, bad=bad: (bad.append("dialog"), dialog.dismiss()))
            page.on(
                "request",
                lambda request, bad=bad: bad.append(request.url) if not request.url.startswith("file:") else None,
            )
            page.on("pageerror", lambda error, bad=bad: bad.append(str(error)))
            for address in addresses(rng):
                page.goto(f"{index}{address}")
                page.wait_for_timeout(120)
                for line in page.locator(".list .case").all()[:4]:
                    line.click()
                    page.wait_for_timeout(40)
                views += 1
                clean = page.evaluate(CLEAN)
                ran += bool(bad) or not clean
                if bad or not clean:
                    print(f"{address!r}: {bad or 'a foreign element'}", file=sys.stderr)
                bad.clear()
            context.close()
        chromium.close()
    return [
        Count("views of the page in Chromium", views, ran, "a script that ran, a request that left, a foreign element")
    ]


CLEAN = """() => window.pwned === undefined
  && [...document.querySelectorAll('script, img, iframe, object, embed, form, base, link, meta[http-equiv]')].every(
       e => e.matches("script[src^='page/'], img[src$='.png'], img[src$='.svg'], link[href^='page/'], meta[http-equiv]")
            && !/refresh/i.test(e.httpEquiv || ''))
  && [...document.querySelectorAll('*')].every(e => [...e.attributes].every(a => !a.name.startsWith('on')))
  && [...document.links].every(a => /^(file|https?):/.test(a.protocol) && a.hostname !== '127.0.0.1')"""
"""Nothing ran, and no element or address is the data's."""


def addresses(rng: random.Random) -> Iterator[str]:
    """Views of the page, and views that a link of somebody else could ask for."""
    yield from ("", "#/methods", "#/samples")
    for _ in range(4):
        text = rng.choice(payloads()).encode("utf-8", "replace").decode()
        quoted = "".join(c if c.isalnum() else f"%{ord(c) % 256:02x}" for c in text)
        yield rng.choice(("#/method/", "#/samples/x?c=", "#/table/x?q=", "#/")) + rng.choice(
            (quoted, text.replace("\n", ""))
        )


def replays(scale: float, rng: random.Random, root: Path) -> Count:
    """A past run's file with fields put into it: no address, price or way of asking is to be taken."""
    from page_cases import Recipe, write

    (path,) = write(Recipe((("none", "control"),), ("sea",), judged=False), root / "replay")
    plain = json.loads(path.read_text("utf-8"))
    plain["spec"] |= {
        "judge": "openai:judge",
        "judge_params": {"model": "judge", "temperature": 0.0},
        "task_params": {},
    }
    places = ("spec", "asked", "spec.judge_params", "asked.judge_params", "spec.protocol", "spec.method_params", "")
    fields = (
        "base_url",
        "address",
        "url",
        "api_key",
        "price",
        "workers",
        "timeout",
        "retries",
        "batch",
        "poll",
        "plugin",
    )
    fields += ("trust_remote_code", "max_cost", "headers", "OPENAI_BASE_URL")
    count = max(20, round(2_000 * scale))
    tried = wrong = 0
    for _ in range(count):
        data = json.loads(json.dumps(plain))
        data.setdefault("asked", {"model": "m", "judge": "openai:judge", "task_params": {}})
        for _ in range(rng.randint(1, 4)):
            home = data
            for part in filter(None, rng.choice(places).split(".")):
                home = home.setdefault(part, {})
            home[rng.choice(fields)] = rng.choice(("http://127.0.0.1:9/v1", True, 1e9, [0.0, 0.0]))
        path.write_text(json.dumps(data), "utf-8")
        tried += 1
        try:
            taken = from_file(path)
        except BenchError:
            continue
        names = {
            key.rpartition(".")[2] for key in taken.get("params", {}) if not key.startswith("none.")
        } | taken.keys()
        wrong += bool(names & set(fields))
    return Count(
        "a past run's file with addresses, prices and plugins put into it", tried, wrong, "one that a replay took"
    )


def count(scale: float, seed: int) -> list[Count]:
    rng = random.Random(seed)
    sys.path.insert(0, str(TESTS))  # where results of any text are made
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENCH_CACHE"] = str(Path(folder) / "cache")
        root = Path(folder)
        return [
            *texts(scale, rng),
            *reports(scale, rng, root),
            *browser(scale, rng, root),
            replays(scale, rng, root),
        ]
