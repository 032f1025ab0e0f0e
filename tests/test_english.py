"""Judges that read English alone: which texts are not English, and what is refused, warned of and noted then."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_runs

from bench import results
from bench.core.errors import UsageError
from bench.core.protocol import protocol
from bench.core.registry import build
from bench.data import layout
from bench.data.check import place
from bench.judges import english
from bench.judges.english import foreign, unread
from bench.measure.rejudge import rejudge
from bench.report.text.leaderboard import unreadable
from bench.results.tables import tables
from bench.run.plan import Options, make

GERMAN = (
    "Wie schreibe ich einen freundlichen Brief an meine Nachbarin?",
    "Beschreibe ein ruhiges Dorf am frühen Morgen.",
    "Warum ist der Himmel am Abend rot, und was hat das mit Staub zu tun?",
    "Ich suche ein Rezept für einen Kuchen, der ohne Eier auskommt.",
    "Erkläre mir, wie man einen Fahrradschlauch flickt.",
    "Welches Buch würdest du einem Kind von zehn Jahren schenken?",
)
CHINESE = (
    "请描述一个清晨的安静村庄。",
    "怎样给邻居写一封友好的信？",
    "为什么傍晚的天空是红色的？",
    "我想找一个不用鸡蛋的蛋糕食谱。",
    "请告诉我怎样修补自行车的内胎。",
    "你会送给十岁的孩子哪一本书？",
)
SPANISH = (
    "¿Cómo escribo una carta amable a mi vecina?",
    "Describe un pueblo tranquilo al amanecer.",
    "¿Por qué el cielo está rojo por la tarde?",
    "Busco una receta para un pastel que no lleve huevos.",
    "Explícame cómo se arregla la rueda de una bicicleta.",
    "¿Qué libro le regalarías a un niño de diez años?",
)
ENGLISH = (
    "How do I write a friendly letter to my neighbour?",
    "Describe a quiet village at dawn.",
    "I had a croissant and a café au lait at the pâtisserie in the rue de la Paix.",
    "def add(x, y):\n    return x + y\n\nprint(add(1, 2))",
    "2 + 2 = 4",
    "MÜLLER GmbH",
    "",
)


@pytest.mark.parametrize(
    ("texts", "language"), [(GERMAN, "German"), (CHINESE, "no Latin letters"), (SPANISH, "Spanish")]
)
def test_a_text_in_another_language_is_seen(texts: Sequence[str], language: str) -> None:
    assert foreign(" ".join(texts)) == language
    assert [text for text in texts if not foreign(text)] == []


@pytest.mark.parametrize("text", ENGLISH)
def test_english_code_and_what_says_too_little_pass(text: str) -> None:
    assert foreign(text) == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Opisz spokojną wieś o świcie i powiedz, dlaczego jest tak piękna.", "a language with accents"),
        ("Опиши тихую деревню на рассвете.", "no Latin letters"),
        ("Beschrijf een rustig dorp bij het ochtendgloren en de mensen die er wonen.", "Dutch"),
        ("Décrivez un village tranquille à l'aube, avec les gens qui sont dans la rue.", "French"),
    ],
)
def test_other_languages_too(text: str, found: str) -> None:
    assert foreign(text) == found


def test_no_shipped_text_is_taken_for_another_language() -> None:
    mini = layout.read(place("mini"))
    texts = [part for text in mini.texts for part in (text.instruction, text.response)]
    assert [text for text in (*texts, *(q.instruction for q in mini.questions)) if foreign(text)] == []


def written(folder: Path, name: str, questions: Sequence[str]) -> Path:
    """A concept of one's own whose questions are in some language."""
    folder.mkdir(exist_ok=True)
    asked = [*questions, *(f"{question} ({i})" for i, question in enumerate(questions))]
    answers = [{"question": text, "positive": f"{text} ++ {i}", "negative": f"{text} -- {i}"} for i, text in
               enumerate(asked[:6])]  # fmt: skip
    row = {"concept": f"politeness {name}", "answers": answers, "questions": asked[6:]}
    (folder / f"{name}.json").write_text(json.dumps(row), encoding="utf-8")
    return folder


@pytest.mark.parametrize("judge", ["ensemble", "embedding"])
@pytest.mark.parametrize("questions", [GERMAN, CHINESE, SPANISH])
def test_a_judge_of_english_alone_is_refused_for_another_language(
    tmp_path: Path, judge: str, questions: Sequence[str]
) -> None:
    folder = written(tmp_path / "own", "warm", questions)
    with pytest.raises(UsageError, match=f"judge {judge} reads English alone, and 1 of 1 concepts"):
        make(Options(("none",), backend="fake", data=str(folder), judge=judge))
    # One that is calibrated on these very texts, and one that may read anything.
    for other in ("likelihood", "rules"):
        assert make(Options(("none",), backend="fake", data=str(folder), judge=other)).unheard == ""


def test_a_few_concepts_in_another_language_are_warned_of(tmp_path: Path) -> None:
    folder = written(tmp_path / "own", "warm", GERMAN)
    for name in ("one", "two"):
        written(folder, name, [f"{text} ({name})" for text in ENGLISH[:2] * 3])
    plan = make(Options(("none",), backend="fake", data=str(folder), judge="embedding"))
    assert "1 of 3 concepts of task axbench ask in another language (warm: German)" in plan.unheard
    assert make(Options(("none",), backend="fake", judge="embedding")).unheard == ""


def test_a_task_that_no_judge_rates_may_be_in_any_language() -> None:
    task = build("task", "constraints", {}, protocol=protocol("quick"))
    assert unread("ensemble", task) == ""


@pytest.mark.slow
def test_a_second_judge_is_held_to_the_same_and_answers_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_runs(tmp_path, ("none",))
    (run,) = results.load(tmp_path / "results")
    for sample in run.data["samples"][:2]:
        sample["text"] = GERMAN[0]
    for sample in run.data["samples"][2:]:
        sample["text"] = ENGLISH[0]
    assert unreadable(tables([run])[0]) == ""  # likelihood was calibrated on the task's texts
    run.data["spec"]["judge"] = "ensemble"
    (table,) = tables([run])
    assert f"2 of {len(run.data['samples'])} answers read as another language" in unreadable(table)
    for sample in run.data["samples"]:
        sample["text"] = ENGLISH[1]
    assert unreadable(table) == ""

    def in_german(*_: Any) -> Sequence[str]:
        return GERMAN

    monkeypatch.setattr(english, "asked", in_german)
    with pytest.raises(UsageError, match="judge embedding reads English alone, and 2 of 2 concepts"):
        rejudge([run], "embedding")
    told: list[str] = []
    monkeypatch.setattr("bench.measure.rejudge.unread", lambda judge, task: f"{judge} cannot read one of {task.name}")
    rejudge([run], "embedding", say=told.append)
    assert told == ["embedding cannot read one of axbench"]
