"""The page in a real browser, opened from `file://`: what a reader does with it, and what hostile data cannot do.

Every page opened here must have logged nothing, thrown nothing and asked for nothing but files.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_cases import Recipe, price, write

from bench import results
from bench.report.build import build
from bench.report.page import stop, write as write_page
from bench.results.tables import tables

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")
expect = playwright.expect  # waits: a link's new view comes with `hashchange`, after the click has returned
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no chromium at hand: apt-get install chromium"),
]

QUIET = ("no-sandbox", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync",
         "disable-quic", "disable-dev-shm-usage")  # fmt: skip
METHODS = (("diffmean", "activations"), ("prompt", "prompt"), ("caa", "activations"), ("none", "control"))
RECIPE = Recipe(METHODS, ("ocean", "sql", "music", "space", "dice", "kings"), tests=3, selects=2, said="because of it")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=[f"--{flag}" for flag in QUIET])
        yield chromium
        chromium.close()


class Tab:
    """One open page, which notes what it logs and asks for."""

    def __init__(self, browser: Any, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.context = browser.new_context(**({"viewport": {"width": 1300, "height": 900}} | options))
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.wrong.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"thrown: {error}"))
        self.page.on("requestfailed", lambda request: self.wrong.append(f"failed: {request.url}"))
        self.page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))

    def open(self, address: str = "") -> Any:
        self.page.goto(f"{(self.folder / 'index.html').as_uri()}{address}")
        return self.page

    def files(self) -> list[str]:
        """Data files asked for, by name."""
        return [url.rsplit("/", 1)[1] for url in self.asked if re.search("/page/data/.+/", url)]

    def close(self) -> None:
        self.context.close()
        assert self.wrong == []
        assert [url for url in self.asked if not url.startswith("file:")] == []


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tables, one with costs and both splits' answers; read it, do not write to it."""
    root = tmp_path_factory.mktemp("browser")
    for path, tokens in zip(write(RECIPE, root / "results"), (0, 120), strict=False):
        price(path, tokens, 1.02)
    write(Recipe(METHODS[:3], ("ocean", "sql"), task="axbench-suppress", judged=False), root / "results")
    build(root / "results", root / "reports")
    return root / "reports"


@pytest.fixture
def tab(browser: Any, report: Path) -> Iterator[Tab]:
    made = Tab(browser, report)
    yield made
    made.close()


def names(page: Any) -> list[str]:
    """The methods of the leaderboard, from the top."""
    found: list[str] = page.locator(".board tbody tr").evaluate_all("rows => rows.map(r => r.dataset.method)")
    return found


def sort(page: Any, column: str) -> None:
    page.get_by_role("button", name=column, exact=False).first.click()


# The leaderboard


def test_the_front_page_leads_with_what_may_be_claimed(tab: Tab) -> None:
    page = tab.open()
    assert page.locator("h1").inner_text() == "Should I steer this model, or just prompt it?"
    assert page.locator("h1 + p").inner_text().startswith("On axbench ")  # the answer, in words
    assert page.locator(".card").count() == 2
    verdict = page.locator(".verdict")
    for text in ("Claimed", "Not claimed"):
        verdict.get_by_role("heading", name=text, exact=True).wait_for()
    assert page.locator(".verdict h2").bounding_box()["y"] < 900
    assert names(page) == ["diffmean", "prompt", "caa", "none"]
    assert "[" in page.locator(".board .c-overall").nth(1).inner_text()
    page.get_by_text("Prompting against steering").first.wait_for()
    assert page.locator("figure img").count() >= 1
    assert tab.files() == []  # no answers and no details before somebody asks


def test_a_column_sorts_both_ways_and_keeps_the_unknown_last(tab: Tab) -> None:
    page = tab.open()
    board = page.locator(".board")
    board.locator("thead button", has_text="Method").click()
    assert names(page) == ["caa", "diffmean", "none", "prompt"]
    assert board.locator('th[aria-sort="ascending"]').inner_text().startswith("Method")
    board.locator("thead button", has_text="Method").press("Enter")
    assert names(page) == ["prompt", "none", "diffmean", "caa"]
    for _ in range(2):
        board.locator("thead button", has_text="Δ to prompt").click()
        assert names(page)[-1] == "prompt"
    page.reload()
    assert names(page)[-1] == "prompt"  # the address has the order
    assert "sort=delta" in page.url


def test_rows_are_filtered_by_name_and_family(tab: Tab) -> None:
    page = tab.open()
    page.locator("#filter").fill("DIFF")
    assert names(page) == ["diffmean"]
    assert page.locator(".controls .count").inner_text() == "1 of 4 methods"
    page.locator("#filter").fill("")
    page.get_by_role("group", name="Surfaces shown").get_by_role("button", name="activations").click()
    assert names(page) == ["prompt", "none"]
    page.reload()
    assert names(page) == ["prompt", "none"]
    page.get_by_role("group", name="Surfaces shown").get_by_role("button", name="activations").click()
    assert len(names(page)) == 4


def test_cost_columns_show_where_there_are_records(tab: Tab) -> None:
    page = tab.open()
    assert page.get_by_role("button", name="prompt tokens").count() == 0
    page.get_by_role("button", name="Cost columns").click()
    page.get_by_role("button", name="prompt tokens").click()
    assert names(page)[:2] == ["diffmean", "prompt"]
    page.get_by_role("button", name="prompt tokens").click()
    assert names(page)[:2] == ["prompt", "diffmean"]
    page.locator(".card").nth(1).click()
    expect(page.get_by_role("button", name="Cost columns")).to_have_count(0)


WIDTHS = (1440, 1024, 390)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose leaderboard has 50 rows; read it, do not write to it."""
    root = tmp_path_factory.mktemp("long")
    methods = [(f"way-{i}", "activations") for i in range(48)] + [("prompt", "prompt"), ("none", "control")]
    write(Recipe(methods, ("ocean", "sql"), tests=1, judged=False), root / "results")
    write_page(tables(results.load(root / "results")), root / "reports", {}, {})
    return root / "reports"


@pytest.fixture(params=WIDTHS)
def narrow(browser: Any, long: Path, request: pytest.FixtureRequest) -> Iterator[Tab]:
    made = Tab(browser, long, viewport={"width": request.param, "height": 800})
    yield made
    made.close()


def within(one: Any, other: Any) -> bool:
    """Whether an element lies in another from left to right, and at its top."""
    inner, outer = one.bounding_box(), other.bounding_box()
    left, right = outer["x"] - 1 <= inner["x"], inner["x"] + inner["width"] <= outer["x"] + outer["width"] + 1
    return bool(left and right and abs(inner["y"] - outer["y"]) < 3)


def test_columns_and_methods_stay_named_however_far_a_table_is_scrolled(narrow: Tab) -> None:
    page = narrow.open()
    box = page.locator(".frame .scroll")
    assert page.locator(".board tbody tr").count() == 50
    box.scroll_into_view_if_needed()
    box.evaluate("box => { box.scrollTop = 900; box.scrollLeft = 1e4; }")
    assert box.evaluate("box => box.scrollTop") == 900
    assert box.bounding_box()["height"] <= 800  # the heads and the bar below are in sight together
    assert within(page.locator("thead .c-answers"), box)
    assert within(page.locator("thead .c-method"), box)
    shown = page.evaluate("""() => {
      const box = document.querySelector(".frame .scroll").getBoundingClientRect();
      const at = (x, y) => document.elementFromPoint(box.left + x, box.top + y).closest("th").className;
      return [at(40, 15), at(40, 300)];
    }""")
    assert shown == ["c-method", "c-method"]  # over what was scrolled below them
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_columns_that_are_cut_off_are_counted_and_reached(narrow: Tab) -> None:
    page = narrow.open()
    box, more = page.locator(".frame .scroll"), page.locator(".more")
    for _ in range(20):
        cut = box.evaluate("""box => {
          const end = box.getBoundingClientRect().right;
          return [...box.querySelectorAll("thead th")].filter((th) => th.getBoundingClientRect().right > end).length;
        }""")
        if not cut:
            break
        expect(more).to_have_text(f"{cut} more column{'' if cut == 1 else 's'} to the right →")
        more.press("Enter")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Leaderboard"
    expect(more).to_be_hidden()
    assert page.locator(".frame.cut").count() == 0


def test_columns_are_chosen_by_name_from_the_keyboard_and_remembered(narrow: Tab) -> None:
    page = narrow.open()
    heads = page.locator(".board thead th")
    every = heads.count()
    summary = page.locator("summary", has_text="Columns")
    expect(summary).to_have_text(f"Columns: all {every}")
    summary.press("Enter")
    group = page.get_by_role("group", name="Columns shown")
    for name in ("p (Holm)", "fluency", "Missing"):
        group.get_by_role("button", name=name).press("Space")
    assert page.evaluate("document.activeElement.textContent") == "Missing"
    assert heads.count() == every - 3
    assert group.get_by_role("button", name="fluency").get_attribute("aria-pressed") == "false"
    assert page.locator(".board .c-fluency").count() == 0
    assert group.get_by_role("button", name="Method", exact=True).count() == 0  # a row is named
    linked = page.url
    narrow.open("#/")
    page.reload()
    expect(heads).to_have_count(every - 3)  # remembered
    page.locator("summary", has_text="Columns").press("Enter")
    page.get_by_role("button", name="Reset columns").press("Enter")
    expect(heads).to_have_count(every)
    page.goto(linked)
    page.reload()
    expect(heads).to_have_count(every - 3)  # in the address too


def test_what_is_remembered_of_columns_may_be_anything(tab: Tab) -> None:
    page = tab.open()
    every = page.locator(".board thead th").count()
    for kept in ("{", "7", '{"a": 1}', '[1, null, "no such column"]'):
        page.evaluate("kept => localStorage.setItem('steer-or-prompt-columns-steering', kept)", kept)
        page.goto("about:blank")
        tab.open()
        expect(page.locator(".board thead th")).to_have_count(every)


def test_another_table_is_one_click_away(tab: Tab) -> None:
    page = tab.open()
    page.locator(".card", has_text="axbench-suppress").click()
    expect(page.locator(".verdict .word")).to_have_text("Undecided.")
    assert names(page) == ["diffmean", "prompt", "caa"]
    page.go_back()
    expect(page.locator(".board tbody tr")).to_have_count(4)


def test_cards_of_two_judges_are_told_apart_and_what_tells_nothing_settles_nothing(
    browser: Any, tmp_path: Path
) -> None:
    for path in write(Recipe(METHODS, ("ocean", "sql"), tests=1, judged=False), tmp_path / "results"):
        data = json.loads(path.read_text("utf-8"))
        other = data | {"id": "f" * 10, "group": "0123", "spec": data["spec"] | {"judge": "other"}}
        for sample in other["samples"]:
            sample["ratings"] = dict.fromkeys(sample["ratings"], 0.0)
        place = path.parent.with_name(f"{data['spec']['method']}-{other['id']}") / "run.json"
        place.parent.mkdir()
        place.write_text(json.dumps(other))
    build(tmp_path / "results", tmp_path / "reports")
    tab = Tab(browser, tmp_path / "reports")
    page = tab.open()
    cards = page.locator(".card .what").all_inner_texts()
    assert sorted(text.rsplit(" · ", 1)[1] for text in cards) == ["judge likelihood", "judge other"]
    page.locator(".card", has_text="judge other").click()
    expect(page.locator(".verdict .word")).to_have_text("No claim.")
    assert "settled" not in page.locator(".verdict").inner_text()
    assert "Each method minus prompt, paired, and its scores." in page.locator(".figures").inner_text()
    page.locator(".card", has_text="judge likelihood").click()
    expect(page.locator(".verdict")).to_contain_text("Not claimed", ignore_case=True)
    tab.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_models_that_ran_on_one_task_stand_side_by_side(browser: Any, tmp_path: Path, width: int) -> None:
    recipe = Recipe(METHODS, ("ocean", "sql"), tests=1, judged=False)
    write(recipe, tmp_path / "results")
    write(dataclasses.replace(recipe, model="other-model", methods=METHODS[1:]), tmp_path / "results")
    write(dataclasses.replace(recipe, task="axbench-suppress"), tmp_path / "results")
    write_page(tables(results.load(tmp_path / "results")), tmp_path / "reports", {}, {})
    tab = Tab(browser, tmp_path / "reports", viewport={"width": width, "height": 800})
    page = tab.open()
    across = page.locator(".across")
    assert across.locator("thead th").all_inner_texts() == ["method", "other-model", "tiny-model"]
    row = across.locator("tbody tr", has_text="diffmean")
    assert row.locator("td").first.inner_text() == ""
    assert "Δ +" in row.locator("td").last.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    across.get_by_role("link", name="tiny-model").click()
    expect(page.locator(".verdict .over").first).to_contain_text("tiny-model")
    page.locator(".card", has_text="axbench-suppress").click()
    expect(page.locator(".verdict .over").first).to_contain_text("axbench-suppress")
    assert across.count() == 0
    tab.close()


# While a run is under way


def report_of(methods: int, folder: Path, to_come: int = 0) -> None:
    """The page of so many methods; of those that are to come the page is told."""
    names = [("prompt", "prompt"), ("none", "control"), *((f"way-{i}", "activations") for i in range(48))]
    write(Recipe(names[:methods], ("ocean", "sql"), tests=1, judged=False), folder / f"results-{methods}")
    shown = tables(results.load(folder / f"results-{methods}"))
    write_page(shown, folder / "reports", {}, {}, to_come=to_come)


def looks(tab: Tab) -> int:
    return sum("built.js?" in url for url in tab.asked)


@pytest.mark.parametrize("width", WIDTHS)
def test_an_open_page_shows_the_next_report_where_the_last_was_read(browser: Any, tmp_path: Path, width: int) -> None:
    report_of(40, tmp_path, to_come=10)
    tab = Tab(browser, tmp_path / "reports", viewport={"width": width, "height": 800})
    page = tab.open("#/")
    bar = page.locator("#live")
    expect(bar).to_contain_text("Provisional: 10 methods are still to come")
    expect(page.locator(".board tbody tr")).to_have_count(40)
    page.locator(".board thead button", has_text="Method").click()
    page.locator("summary", has_text="How to read").click()
    page.locator(".frame .scroll").evaluate("box => { box.scrollTop = 300; box.scrollLeft = 60; }")
    page.evaluate("scrollTo(0, 350)")
    read = "() => { const b = document.querySelector('.frame .scroll'); return [scrollY, b.scrollTop, b.scrollLeft]; }"
    before, address = page.evaluate(read), page.url
    assert before[:2] == [350, 300]
    report_of(50, tmp_path)
    expect(page.locator(".board tbody tr")).to_have_count(50, timeout=15_000)
    page.wait_for_timeout(300)
    assert (page.evaluate(read), page.url) == (before, address)
    assert page.locator("details", has_text="How to read").evaluate("one => one.open") is False
    expect(bar).to_be_hidden()
    seen = looks(tab)
    page.wait_for_timeout(5000)
    assert looks(tab) == seen  # a finished report is looked at no more
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.close()


def test_a_newer_report_waits_for_who_is_writing(browser: Any, tmp_path: Path) -> None:
    report_of(3, tmp_path, to_come=2)
    tab = Tab(browser, tmp_path / "reports")
    page = tab.open()
    page.locator("#filter").fill("way")
    report_of(4, tmp_path, to_come=1)
    offer = page.get_by_role("button", name="Show the newer report")
    offer.wait_for(timeout=15_000)
    assert names(page) == ["way-0"]
    offer.click()
    expect(page.locator("#live")).to_contain_text("Provisional: 1 method is still to come")
    assert names(page) == ["way-0", "way-1"]
    tab.close()


def test_a_run_that_stopped_is_waited_for_no_more(browser: Any, tmp_path: Path) -> None:
    report_of(3, tmp_path, to_come=2)
    tab = Tab(browser, tmp_path / "reports")
    page = tab.open()
    expect(page.locator("#live")).to_contain_text("shows the next report by itself")
    stop(tmp_path / "reports")
    expect(page.locator("#live")).to_contain_text("not under way any more", timeout=15_000)
    seen = looks(tab)
    page.wait_for_timeout(5000)
    assert looks(tab) == seen
    page.reload()
    expect(page.locator("#live")).to_contain_text("Provisional: 2 methods are still to come")
    tab.close()


def test_a_finished_report_is_not_looked_at_again(tab: Tab) -> None:
    page = tab.open()
    expect(page.locator("#live")).to_be_hidden()
    page.wait_for_timeout(5000)
    assert looks(tab) == 0


# A method


def test_a_method_has_its_paper_equation_record_and_scores(tab: Tab) -> None:
    page = tab.open()
    page.locator(".board a", has_text="diffmean").first.click()
    expect(page.locator("h1")).to_have_text("diffmean")
    assert page.locator(".paper a").get_attribute("href") == "https://arxiv.org/abs/2501.17148"
    assert "mean(T⁺)" in page.locator(".equation").inner_text()
    for heading in ("Deviations from AxBench", "Reproduction", "Parameters", "Results"):
        page.get_by_role("heading", name=heading).wait_for()
    assert page.locator(".result").count() == 2
    rows = page.locator(".result").first.locator("tbody tr")
    rows.first.wait_for()
    assert rows.count() == 6
    assert page.locator(".result").first.locator(".picked").count() == 6
    assert "block 2; raw_norm 3.25" in rows.first.inner_text()
    assert sorted(name.split("-")[0] for name in tab.files()) == ["run", "run"]
    rows.first.get_by_role("link").click()
    page.locator(".answer").first.wait_for()
    assert {
        page.locator(".answer").nth(i).get_attribute("data-method") for i in range(page.locator(".answer").count())
    } == {"diffmean"}


def test_every_method_is_listed_with_its_summary(tab: Tab) -> None:
    page = tab.open("#/methods")
    assert page.locator(".card").count() > 30
    page.locator(".card", has_text="lora").first.click()
    page.get_by_text("This report has no result of it.").wait_for()


# The samples


def cases(page: Any) -> list[str]:
    found: list[str] = page.locator(".case").evaluate_all("rows => rows.map(r => r.innerText)")
    return found


def gaps(page: Any) -> list[float]:
    found: list[str] = page.locator(".case .gap b").all_inner_texts()
    return [float(text) for text in found]


def shown(page: Any) -> list[str]:
    found: list[str] = page.locator(".answer").evaluate_all("cards => cards.map(c => c.dataset.method)")
    return found


def test_the_largest_disagreement_of_the_judges_comes_first(tab: Tab) -> None:
    page = tab.open("#/samples")
    page.locator(".answer").first.wait_for()
    found = gaps(page)
    assert found == sorted(found, reverse=True)
    assert page.locator(".count").first.inner_text() == "18 cases"
    lead = page.locator(".answer").first
    assert f"judges on {lead.get_attribute('data-method')}" in page.locator(".largest").inner_text()
    one, two = (float(lead.locator(f".ratings tbody tr:nth-child({i}) td").first.inner_text()) for i in (1, 2))
    assert abs(one - two) == pytest.approx(found[0], abs=0.011)
    page.locator("select").nth(3).select_option("methods")
    found = gaps(page)
    assert found == sorted(found, reverse=True)
    assert " over " in page.locator(".largest").inner_text()
    page.locator("select").nth(3).select_option("order")
    assert cases(page)[0].startswith("Question 0 of ocean")
    assert gaps(page) == []


def test_an_answer_is_opened_beside_those_of_other_methods(tab: Tab) -> None:
    page = tab.open("#/samples")
    page.locator(".answer").first.wait_for()
    before = page.locator(".detail h2").inner_text()
    page.locator(".case").nth(4).click()
    page.wait_for_function("text => document.querySelector('.detail h2').textContent !== text", arg=before)
    assert sorted(shown(page)) == ["caa", "diffmean", "none", "prompt"]
    card = page.locator(".answer").first
    assert [t.strip() for t in card.locator("tbody th").all_inner_texts()] == ["likelihood", "second"]
    card.locator("summary").click()
    assert "likelihood on concept" in card.locator("dl").inner_text()
    assert "because of it" in card.locator("dl").inner_text()
    assert "40 tokens" in card.locator("footer").inner_text()
    title = page.locator(".detail h2").inner_text()
    page.reload()  # the address has the case
    page.locator(".answer").first.wait_for()
    assert page.locator(".detail h2").inner_text() == title


@pytest.mark.parametrize("width", WIDTHS)
def test_a_card_shows_the_prompt_its_answer_was_asked_with(browser: Any, tmp_path: Path, width: int) -> None:
    asked = {"system": "Be brief. " * 40, "prefix": "Say: ", "suffix": PAYLOADS[0], "shots": [["Hi?", "Ho."]]}
    write(Recipe(METHODS, ("ocean", "sql"), tests=1, selects=1, judged=False, prompt=asked), tmp_path / "results")
    write_page(tables(results.load(tmp_path / "results")), tmp_path / "reports", {}, {})
    tab = Tab(browser, tmp_path / "reports", viewport={"width": width, "height": 900})
    page = tab.open("#/samples")
    page.locator(".answer").first.wait_for()
    assert page.locator(".around").count() == 1
    around = page.locator('.answer[data-method="prompt"] .around')
    summary = around.locator("summary")
    assert summary.inner_text().startswith("Prompt: Be brief.")
    assert summary.bounding_box()["height"] < 40
    summary.press("Enter")
    assert around.locator("dt").all_inner_texts() == ["system message", "example 1, user", "example 1, model", "user"]
    assert around.locator("dd").last.inner_text() == f"Say: the instruction above{PAYLOADS[0]}"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("select").first.select_option("1")  # the select split keeps the prompt of each candidate
    page.locator(".sweep .around").first.wait_for()
    harmless(page)
    tab.close()


def test_one_method_s_answers_stand_side_by_side_across_coefficients(tab: Tab) -> None:
    page = tab.open("#/samples")
    page.locator(".answer").first.wait_for()
    card = page.locator('.answer[data-method="diffmean"]')
    card.get_by_role("link", name="other coefficients").click()
    page.locator(".sweep .answer").first.wait_for()
    assert page.locator(".sweep").count() == 1
    headings = page.locator(".sweep .answer header").all_inner_texts()
    assert [h.split("\n")[0] for h in headings] == ["c = 0.1", "c = 0.4"]
    assert sum("picked" in h for h in headings) == 1
    assert page.locator(".case").count() == 2
    page.get_by_role("button", name="All", exact=True).click()
    page.wait_for_function("() => document.querySelectorAll('.sweep').length === 4")
    first = page.get_by_label("First")
    assert first.input_value() == "methods"  # the second judge has not rated this split
    assert first.locator("option:disabled").all_inner_texts() == ["judges disagree most", "… on any one axis"]


def test_cases_are_filtered_by_concept_and_method(tab: Tab) -> None:
    page = tab.open("#/samples")
    page.locator(".answer").first.wait_for()
    page.locator("select").nth(2).select_option("music")
    assert len(cases(page)) == 3
    assert all("music" in text for text in cases(page))
    page.locator("summary", has_text="Methods").click()
    for name in ("prompt", "caa"):
        page.get_by_role("group", name="Methods shown").get_by_role("button", name=name).click()
    page.wait_for_function("() => document.querySelectorAll('.answer').length === 2")
    assert sorted(shown(page)) == ["caa", "prompt"]
    assert all("on prompt" in text or "on caa" in text for text in cases(page))


def test_search_looks_into_instructions_and_answers(browser: Any, tmp_path: Path) -> None:
    def words(rng: random.Random) -> str:
        return "a Needle in it" if rng.random() < 0.05 else "hay"

    write(Recipe(METHODS, ("ocean", "sql", "music", "kings"), tests=4, words=words), tmp_path / "results")
    build(tmp_path / "results", tmp_path / "reports")
    tab = Tab(browser, tmp_path / "reports")
    page = tab.open("#/samples")
    page.locator(".answer").first.wait_for()
    assert len(tab.files()) == 2  # the index and one concept
    page.locator("#search").fill("question 2 of MUSIC")
    page.get_by_text("1 case with").wait_for()
    page.locator("#search").fill("needle")
    page.get_by_text("4 of 4 files searched").wait_for()
    found = len(cases(page))
    assert 0 < found < 16
    assert page.locator(".answer mark").first.inner_text() == "Needle"
    page.locator("#search").fill("no such words")
    page.get_by_text("Nothing matches.").wait_for()
    page.locator("#search").fill("")
    page.get_by_text("16 cases").wait_for()
    tab.close()


def test_the_keyboard_alone_is_enough(tab: Tab) -> None:
    page = tab.open("#/samples")
    page.locator(".answer").first.wait_for()
    page.locator(".list").focus()
    page.keyboard.press("End")
    chosen = page.locator('.case[aria-selected="true"]')
    assert chosen.get_attribute("aria-posinset") == "18"
    assert page.locator(".list").get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    page.keyboard.press("ArrowUp")
    assert page.locator('.case[aria-selected="true"]').get_attribute("aria-posinset") == "17"
    page.keyboard.press("Home")
    assert page.locator('.case[aria-selected="true"]').get_attribute("aria-posinset") == "1"
    tab.open()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"


# Appearance


@pytest.mark.parametrize("address", ["", "#/samples", "#/methods", "#/method/diffmean"])
def test_a_phone_scrolls_tables_and_not_the_page(browser: Any, report: Path, address: str) -> None:
    tab = Tab(browser, report, viewport={"width": 360, "height": 740}, has_touch=True)
    page = tab.open(address)
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_have_contrast(browser: Any, report: Path, scheme: str) -> None:
    """WCAG's 4.5 for the text colours on every background they stand on, by the system and by the button."""
    measure = """() => {
      const style = getComputedStyle(document.documentElement);
      const light = (name) => {
        const [r, g, b] = style.getPropertyValue(name).trim().match(/[0-9a-f]{2}/gi).map((x) => {
          const v = parseInt(x, 16) / 255;
          return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const found = {};
      const surfaces = ["prompt", "decoding", "activations", "weights", "combination", "control"];
      for (const ink of ["ink", "soft", "accent", "hot", ...surfaces])
        for (const paper of ["paper", "raised", "tint"]) {
          const [a, b] = [light(`--${ink}`), light(`--${paper}`)].sort((x, y) => y - x);
          found[`${ink} on ${paper}`] = (a + 0.05) / (b + 0.05);
        }
      return found;
    }"""
    tab = Tab(browser, report, color_scheme=scheme)
    page = tab.open()
    first = page.evaluate(measure)
    assert {name: ratio for name, ratio in first.items() if ratio < 4.5} == {}
    while page.locator("#theme").inner_text() != f"Theme: {'dark' if scheme == 'light' else 'light'}":
        page.locator("#theme").click()
    second = page.evaluate(measure)
    assert second != first
    assert {name: ratio for name, ratio in second.items() if ratio < 4.5} == {}
    page.reload()
    assert page.evaluate(measure) == second  # the choice is kept
    tab.close()


# Hostile data

PAYLOADS = (
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 2'>",
    "</script><script>window.pwned = 3</script><!--",
    "<svg onload=window.pwned=4><a href='javascript:window.pwned=5'>x</a>",
    "![x](http://127.0.0.1:9/x.png) [y](javascript:window.pwned=6) **bold** `code`",
    "=HYPERLINK(\"http://127.0.0.1:9\") ; @SUM(1+1)*cmd|' /C calc'!A0",
    "');window.pwned=7;(' \\' \\u0027);window.pwned=8;// \u2028\u2029 \u202e \x00 \ud800",
    '" onmouseover="window.pwned=9" x="',
)
CONCEPTS = ("__proto__", "constructor", "../../etc|passwd", *PAYLOADS[:4])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of runs whose every text is an attack."""
    root = tmp_path_factory.mktemp("hostile")
    turn = iter(range(10**6))
    methods = (*METHODS[:2], ("<img src=x onerror=window.pwned=10>", "<b>surface"), ("none", "control"))[:4]
    write(
        Recipe(methods, CONCEPTS, tests=3, selects=1, words=lambda rng: PAYLOADS[next(turn) % len(PAYLOADS)],
               said=PAYLOADS[2], note=PAYLOADS[1], about=PAYLOADS[0]),
        root / "results",
    )  # fmt: skip
    build(root / "results", root / "reports")
    return root / "reports"


def harmless(page: Any) -> None:
    """Nothing ran, and no element that the page did not make itself is in it."""
    assert page.evaluate("window.pwned === undefined")
    allowed = "script[src^='page/'], img[src$='.png'], img[src$='.svg']"
    every = "script, img, iframe, object, embed, form, base"
    count = "([a, b]) => [a, b].map((one) => document.querySelectorAll(one).length)"  # at one moment: the page loads on
    assert len(set(page.evaluate(count, [every, allowed]))) == 1
    assert page.evaluate(
        "[...document.querySelectorAll('*')].every(e => [...e.attributes].every(a => !a.name.startsWith('on')))"
    )
    assert page.evaluate("[...document.links].every(a => /^(file|https:)/.test(a.protocol))")


def test_hostile_texts_are_shown_as_they_are_and_do_nothing(browser: Any, hostile: Path) -> None:
    tab = Tab(browser, hostile)
    page = tab.open("#/samples")
    page.locator(".answer").first.wait_for()
    seen: set[str] = set()
    for at in range(page.locator(".case").count()):
        page.locator(".list").focus()
        page.keyboard.press("Home" if at == 0 else "ArrowDown")
        page.wait_for_timeout(60)
        seen |= set(page.locator(".answer .text").evaluate_all("ps => ps.map(p => p.textContent)"))
        harmless(page)
    as_shown = {text.replace("\ud800", "\ufffd") for text in PAYLOADS}
    assert as_shown <= {text.replace("\ud800", "\ufffd") for text in seen}
    assert PAYLOADS[0] in page.locator(".detail .concept").inner_text()
    page.locator(".reasons summary").first.click()
    assert PAYLOADS[2] in page.locator(".reasons").first.inner_text()
    page.locator("select").nth(0).select_option("1")
    page.locator(".sweep .answer").first.wait_for()
    harmless(page)
    page.locator("#search").fill("<script>")
    page.get_by_text("files searched").wait_for()
    harmless(page)
    tab.close()


@pytest.mark.parametrize(
    "address",
    ["", "#/methods", "#/method/diffmean", "#/method/%3Cimg%20src%3Dx%20onerror%3Dwindow.pwned%3D10%3E",
     "#/method/<script>window.pwned=11</script>", "#/__proto__/x", "#/samples/x?c=__proto__&m=<b>&q=<img src=x>",
     "#/%E0%A4%A", "#/table/constructor?sort=__proto__&q=%3Cb%3E"],
)  # fmt: skip
def test_hostile_names_and_addresses_do_nothing(browser: Any, hostile: Path, address: str) -> None:
    tab = Tab(browser, hostile)
    page = tab.open(address)
    page.wait_for_timeout(250)
    assert page.locator("main h1").count() + page.locator("main .empty").count() >= 1
    harmless(page)
    if address == "#/method/diffmean":
        assert PAYLOADS[1] in page.locator(".result").inner_text()  # the note of a fit
        assert "__proto__" in page.locator(".result").inner_text()
    tab.close()


def test_the_policy_refuses_what_data_would_need_to_run(browser: Any, report: Path) -> None:
    """Were a text ever to become markup or a script, the browser itself would stop it."""
    tab = Tab(browser, report)
    page = tab.open()
    refused = page.evaluate("""async () => {
      const tried = {};
      const attempt = (name, act) => { try { act(); tried[name] = "ran"; } catch (e) { tried[name] = "refused"; } };
      attempt("markup", () => { document.body.innerHTML = "<img src=x onerror='window.pwned=1'>"; });
      attempt("address", () => { document.createElement("script").src = "page/app.js"; });
      // later, since the driver's own calls may use eval
      await new Promise((end) => setTimeout(() => { attempt("eval", () => window.eval("window.pwned = 2")); end(); }));
      await bench.load("../../x").then(() => { tried.loader = "ran"; }, () => { tried.loader = "refused"; });
      attempt("handler", () => document.body.setAttribute("onclick", "window.pwned = 3"));
      attempt("frame", () => { document.createElement("iframe").srcdoc = "<script>parent.pwned = 4</script>"; });
      return tried;
    }""")
    assert len(refused) == 6
    assert {name for name, what in refused.items() if what != "refused"} == set()
    assert page.evaluate("window.pwned === undefined")
    assert all("policy" in line.lower() or "Trusted" in line for line in tab.wrong)
    tab.wrong.clear()
    tab.close()


# Size


def test_a_large_report_opens_small_and_draws_little(browser: Any, tmp_path: Path) -> None:
    """20 methods, 40 concepts, 9,600 answers; `benchmarks/page.py` measures 100,000."""
    methods = [(f"way-{i}", "activations") for i in range(18)] + [("prompt", "prompt"), ("none", "control")]
    concepts = tuple(f"concept-{i}" for i in range(40))
    write(Recipe(methods, concepts, tests=12), tmp_path / "results")
    build(tmp_path / "results", tmp_path / "reports")
    data = tmp_path / "reports" / "page" / "data"
    assert (data / "overview.js").stat().st_size < 200_000
    answers = sorted(data.glob("*/*-test-*.js"))
    assert len(answers) == 40
    assert max(path.stat().st_size for path in answers) < 400_000
    tab = Tab(browser, tmp_path / "reports")
    page = tab.open()
    assert len(names(page)) == 20
    assert tab.files() == []
    page.get_by_role("link", name="Samples").click()
    page.locator(".answer").first.wait_for()
    assert len(tab.files()) == 2
    assert page.locator(".count").first.inner_text() == "480 cases"
    assert page.locator(".case").count() < 30
    page.locator(".list").evaluate("list => { list.scrollTop = list.scrollHeight; }")
    page.locator('.case[aria-posinset="480"]').wait_for()
    assert page.locator(".case").count() < 30
    tab.close()


def test_a_page_without_its_files_says_so(browser: Any, report: Path, tmp_path: Path) -> None:
    shutil.copytree(report, tmp_path / "moved")
    for path in (tmp_path / "moved" / "page" / "data").glob("*/index.js"):
        path.unlink()
    tab = Tab(browser, tmp_path / "moved")
    page = tab.open("#/samples")
    page.get_by_text("is missing: keep the folder page/ beside index.html").wait_for()
    assert tab.wrong
    tab.wrong.clear()
    tab.close()
