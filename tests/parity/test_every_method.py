"""The suite as a whole: no method without a peer's numbers or a reason, and no fixture that nothing reads."""

from __future__ import annotations

import json
import re

from peers import FIXTURES, fixture

import bench
from bench.core import registry

HERE = FIXTURES.parent
NAMES = sorted(path.stem for path in FIXTURES.glob("*.json"))


def test_every_method_has_numbers_of_a_peer_or_a_reason_why_not() -> None:
    assert bench.__name__
    held = {name for one in NAMES for name in fixture(one)["methods"]}
    alone = json.loads((HERE / "without_peer.json").read_text("utf-8"))
    methods = {cls.name for cls in registry.table("method").values() if cls.__module__.startswith("methods.")}
    assert methods - held == set(alone)
    assert all(alone.values())


def test_every_fixture_says_whose_numbers_it_holds_and_is_read_by_a_test() -> None:
    tests = "".join(path.read_text("utf-8") for path in HERE.glob("test_*.py"))
    for name in NAMES:
        found = fixture(name)
        assert set(found) == {"peer", "commit", "file", "methods", "compared", "adapted", "difference", "values"}, name
        assert re.search(r"\d", found["difference"]), name
        assert f'"{name}"' in tests, name
        assert (FIXTURES / f"{name}.json").stat().st_size < 60_000


def test_no_fixture_names_a_place_on_a_machine() -> None:
    for path in [*FIXTURES.glob("*.json"), *HERE.glob("*.py")]:
        text = path.read_text("utf-8")
        assert not re.search(r"(?<![\w.:/])/(tmp|work|root|home)/", text), path.name
