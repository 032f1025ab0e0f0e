"""The recipes of images, which are not built here: what they set agrees, and with what the package asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
DOCKER, APPTAINER = ((ROOT / name).read_text("utf-8") for name in ("Dockerfile", "apptainer.def"))
CPU, GPU = DOCKER.split("\nFROM ")[1:]
CACHES = {"BENCH_CACHE", "BENCH_DATA", "HF_HOME", "MPLCONFIGDIR"}
"""What every image writes."""


def environment(text: str) -> dict[str, str]:
    """The variables that a recipe sets."""
    lines = re.findall(r"^(?:ENV|    export) ((?:.*\\\n)*.*)$", text, re.M)
    return dict(re.findall(r"(\w+)=(\S+)", "\n".join(lines)))


def test_all_that_is_written_lies_in_the_one_folder_that_is_bound() -> None:
    for text in (CPU, GPU, APPTAINER):
        made = environment(text)
        assert made.keys() >= CACHES
        assert made["PYTHONNOUSERSITE"] == "1"  # the user's own packages are bound with the home folder
        for name in made.keys() - {"PYTHONNOUSERSITE", "VLLM_NO_USAGE_STATS"}:
            assert made[name].startswith("/cache/"), name
        assert "mkdir --mode=1777 /cache" in text


def test_the_two_recipes_for_a_gpu_make_the_same() -> None:
    assert environment(GPU) == environment(APPTAINER)
    base = re.compile(r"vllm/vllm-openai:v(\S+)")
    assert base.findall(GPU) == base.findall(APPTAINER)
    commands = [line.strip(" \\&") for text in (GPU, APPTAINER) for line in text.splitlines() if "uv pip " in line]
    assert [line.removeprefix("RUN ") for line in commands[:2]] == commands[2:]


def test_what_they_are_made_of_is_what_was_tested() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (engine,) = re.findall(r"vllm-openai:v(\S+)", GPU)
    assert Requirement(extras["vllm"][0]).specifier.contains(engine)
    (torch,) = re.findall(r"ARG TORCH=(\S+)", CPU)
    assert f"torch=={torch}\n" in (ROOT / "constraints.txt").read_text("utf-8")
