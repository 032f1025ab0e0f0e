"""The README keeps its size, and its Python runs as written on the default model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text("utf-8")


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= 120
    assert len(TEXT.encode()) <= 7_000


def test_every_folder_of_the_package_has_its_line() -> None:
    folders = {path.parent.name for path in (ROOT / "bench").glob("*/__init__.py")}
    assert set(re.findall(r"^bench/(\w+)/ ", TEXT, re.M)) == folders


@pytest.mark.slow
@pytest.mark.model
def test_its_python_steers_the_default_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Two answers are printed: of the model as it is, and of one steered to the sea."""
    block = next(text for text in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "load_model" in text)
    assert len(block.splitlines()) <= 15
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    bare, steered = re.split(r"^0\.3 ", capsys.readouterr().out.removeprefix("0 "), flags=re.M)
    assert bare.strip()
    assert steered.strip()
    assert bare.strip() != steered.strip()
