"""What a method changes: shipped methods, old records and the command line."""

from __future__ import annotations

import pytest

from bench.core import registry
from bench.core.naming import select
from bench.core.surfaces import PROMPTED, STEERED, SURFACES, surface_of


def test_the_two_sides_share_no_surface_and_every_surface_has_methods() -> None:
    assert not PROMPTED & STEERED
    registered = {cls.surface for cls in registry.table("method").values()}
    assert registered | {"combination"} == set(SURFACES)


@pytest.mark.parametrize("name", [n for n, cls in registry.table("method").items() if cls.surface in STEERED])
def test_weights_are_what_needs_changed_weights(name: str) -> None:
    cls = registry.table("method")[name]
    assert (cls.surface == "weights") == ("delta" in cls.needs)


@pytest.mark.parametrize(
    ("record", "method", "surface"),
    [
        ({"surface": "decoding", "family": "prompting"}, "prompt", "decoding"),
        ({"family": "prompting"}, "prompt-search", "prompt"),
        ({"family": "prompting"}, "prompt-best-of-n", "decoding"),
        ({"family": "direction"}, "diffmean", "activations"),
        ({"family": "trained"}, "reft-r1", "activations"),
        ({"family": "trained"}, "lora", "weights"),
        ({"family": "control"}, "shuffled(lora)", "control"),
        ({"family": "combination"}, "prompt+lora", "combination"),
    ],
)
def test_a_record_of_0_1_0_has_a_surface(record: dict[str, str], method: str, surface: str) -> None:
    assert surface_of(record, method) == surface


def test_a_surface_stands_for_its_methods_and_prompt_for_itself() -> None:
    assert "prompt-strength" in select(["decoding"])
    assert "lora" in (weights := select(["weights"]))
    assert "diffmean" not in weights
    assert select(["prompt"]) == ["prompt"]
    assert {"prompt", "prompt-search"} < set(select(["prompt*"]))
