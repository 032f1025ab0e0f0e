"""Folders in SteerEval's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXTS = {
    "L1": "express gratitude",
    "L2": "gratitude toward fate, number {i}",
    "L3": 'gratitude with the must-have word "beholden{i}"',
}


def rows(part: str, text: str, concept: str, n: int) -> list[dict[str, Any]]:
    return [
        {
            "question": f"{concept} {part} {i}: how did it go?",
            "matching": f"Thank you, it went well {i}.",
            "not_matching": f"No thanks to anyone, it went {i}.",
            "concept": text,
            "concept_id": concept,
            "question_id": i,
            "rationale": "left alone",
        }
        for i in range(n)
    ]


def domain(
    folder: Path,
    each: int = 2,
    train: int = 12,
    valid: int = 3,
    test: int = 6,
    names: tuple[str, str] = ("", ""),
) -> Path:
    folder.mkdir(parents=True)
    files: dict[str, dict[str, Any]] = {"train": {}, "valid": {}, "test": {}}
    for level, text in TEXTS.items():
        for i in range(1, each + 1):
            name = f"{level}_{i}"
            for part, n in (("train", train), ("valid", valid), ("test", test)):
                files[part][name] = rows(part, text.replace("{i}", str(i)), f"{folder.name} {name}", n)
    for part, value in files.items():
        if valid or part != "valid":
            suffix = names[0] if part != "valid" else names[1]
            (folder / f"{part}{suffix}.json").write_text(json.dumps(value))
    return folder
