"""IFEval's checks here against the reference's (lm-eval), on varied answers to all of its prompts, strict and loose.

The answers are of our own making: to every prompt, the plain texts of the shipped set changed in the ways that the
checks look at, and one that is made to keep the prompt's instructions. Where langdetect or nltk's data are missing it
says what. Writes `ifeval.json`: how many verdicts agree, by kind, and every one that does not.
`python benchmarks/ifeval.py input_data.jsonl`, a minute or two.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.core.store import write_json
from bench.judges import ifeval
from bench.results import provenance
from tasks.constraints import plain_texts

EACH = 6
"""Answers to a prompt, beside the one made for it."""
CHANGES: tuple[Callable[[str], str], ...] = (
    lambda t: t,
    str.upper,
    str.lower,
    lambda t: t.replace(",", ""),
    lambda t: "* " + t.replace(". ", ".\n* "),
    lambda t: "- " + t.replace(". ", ".\n- ") + "\n---",
    lambda t: f'"{t}"',
    lambda t: f"Sure! Here it is:\n{t}\nI hope this helps, Dr. Smith.",
    lambda t: f"<<A TITLE>>\n\n{t}\n\nP.S. I'M sorry; DON'T wait, the U.S. is far. P.P.S. Bye.",
    lambda t: json.dumps({"answer": t}),
    lambda t: f"```json\n{json.dumps([t])}\n```",
    lambda t: f"{t}\n***\n{t}\n***\n{t}",
    lambda t: f"{t}\n******\nOr else: {t}",
    lambda t: "\n\n".join(f"**{part.strip()}** [place] *and more*" for part in t.split(". ")),
    lambda t: f"My answer is maybe. {t} Any other questions?",
    lambda t: " ".join([t] * 12),
    lambda t: f"SECTION 1\n{t}\nSECTION 2\n{t}\nSection 3 {t}",
    lambda t: "1. " + t.replace(". ", ".\n2. "),
    lambda t: "12345",
    lambda t: " \n ",
    lambda t: "OK",
    lambda t: t[: len(t) // 3],
)
OTHERS = (
    "La casa tiene un patio con naranjos, y por la tarde los vecinos se sientan allí a charlar de sus cosas.",
    "Das Haus steht am Ende der Straße, und am Abend sitzen die Nachbarn davor und reden über das Wetter.",
    "La maison a un petit jardin, et le soir les voisins viennent y parler de tout et de rien.",
)


def made(kind: str, given: Mapping[str, Any], text: str) -> str:
    """A text brought nearer to what one instruction wants."""
    if kind == "combination:repeat_prompt":
        return f"{given['prompt_to_repeat']}\n{text}"
    if kind == "startend:end_checker":
        return f"{text} {given['end_phrase']}"
    if kind == "keywords:existence":
        return f"{text} {' '.join(given['keywords'])}."
    if kind == "keywords:frequency":
        return text + f" {given['keyword']}" * given["frequency"]
    if kind == "keywords:forbidden_words":
        return f"{text} {given['forbidden_words'][0].upper()}."
    if kind == "detectable_content:postscript":
        return f"{text}\n{given['postscript_marker']} More later."
    if kind == "keywords:letter_frequency":
        return text + given["letter"] * given["let_frequency"]
    if kind == "length_constraints:number_words":
        return (text + " ") * (1 + given["num_words"] // 40)
    if kind == "length_constraints:number_paragraphs":
        return "\n***\n".join([text] * given["num_paragraphs"])
    if kind == "length_constraints:nth_paragraph_first_word":
        parts = [text] * given["num_paragraphs"]
        parts[given["nth_paragraph"] - 1] = f"{given['first_word'].capitalize()}, {text}"
        return "\n\n".join(parts)
    if kind == "detectable_format:number_bullet_lists":
        return f"{text}\n" + "\n".join(f"* point {i}" for i in range(given["num_bullets"]))
    if kind == "detectable_format:multiple_sections":
        return "\n".join(f"{given['section_spliter']} {i + 1}\n{text}" for i in range(given["num_sections"]))
    if kind == "detectable_content:number_placeholders":
        return f"{text} " + " ".join(f"[place {i}]" for i in range(given["num_placeholders"]))
    return text


def answers(rows: list[ifeval.Row], extra: Mapping[str, str]) -> Iterator[tuple[ifeval.Row, str]]:
    """(prompt, answer), the same on every machine; `extra` has answers of a model by prompt."""
    plain, rng = plain_texts(), random.Random(0)
    for i, row in enumerate(rows):
        base = plain[i % len(plain)]
        for change in rng.sample(CHANGES, EACH):
            yield row, change(base)
        text = base if rng.random() < 0.8 else rng.choice(OTHERS)
        for kind, given in zip(row["instruction_id_list"], ifeval.arguments(row), strict=True):
            text = made(kind, given, text)
        yield row, text
        if row["prompt"] in extra:
            yield row, extra[row["prompt"]]


def reference() -> Any:
    """lm-eval's own scoring of a prompt's answer; SystemExit says what it lacks."""
    try:
        import langdetect
        from lm_eval.tasks.ifeval import utils
    except (ImportError, LookupError) as error:
        sys.exit(f"the reference is not here: pip install 'lm-eval[ifeval]' and nltk's punkt_tab ({str(error)[:200]})")
    langdetect.DetectorFactory.seed = 0
    return utils


def compared(rows: list[ifeval.Row], extra: Mapping[str, str]) -> dict[str, Any]:
    """How many verdicts agree."""
    theirs_of = reference()
    random.seed(0)  # the reference draws an argument in place of one that it does not take
    tried: dict[str, Counter[str]] = {how: Counter() for how in ("strict", "loose")}
    kept: dict[str, Counter[str]] = {how: Counter() for how in tried}
    apart: list[dict[str, Any]] = []
    prompts: dict[str, Counter[bool]] = {how: Counter() for how in tried}
    pairs = 0
    for row, answer in answers(rows, extra):
        pairs += 1
        given = ifeval.arguments(row)
        asked = theirs_of.InputExample(row["key"], row["instruction_id_list"], row["prompt"], given)
        both = {
            "strict": (ifeval.keeps, theirs_of.test_instruction_following_strict),
            "loose": (ifeval.keeps_loosely, theirs_of.test_instruction_following_loose),
        }
        for how, (ours, theirs) in both.items():
            found = theirs(asked, answer).follow_instruction_list
            own = [ours(kind, one, answer) for kind, one in zip(row["instruction_id_list"], given, strict=True)]
            prompts[how][all(own) == all(found)] += 1
            for kind, one, mine, other in zip(row["instruction_id_list"], given, own, found, strict=True):
                tried[how][kind] += 1
                kept[how][kind] += bool(other)
                if mine != bool(other):
                    said = {"kind": kind, "how": how, "key": row["key"], "ours": mine, "text": answer[:400]}
                    apart.append(said | {"arguments": one})
    return {
        "answers": pairs,
        "prompts": {how: {"agree": n[True], "differ": n[False]} for how, n in prompts.items()},
        "instructions": {
            how: {
                "verdicts": tried[how].total(),
                "kept": kept[how].total(),
                "differ": sum(a["how"] == how for a in apart),
            }
            for how in tried
        },
        "kinds": {
            kind: {
                "verdicts": tried["strict"][kind],
                "kept": kept["strict"][kind],
                "differ": sum(a["kind"] == kind and a["how"] == "strict" for a in apart),
                "differ loosely": sum(a["kind"] == kind and a["how"] == "loose" for a in apart),
            }
            for kind in sorted(tried["strict"])
        },
        "apart": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--answers", type=Path, help="JSON of prompt -> a model's answer, to compare on as well")
    asked = parser.parse_args()
    extra = json.loads(asked.answers.read_text("utf-8")) if asked.answers else {}
    found = compared(ifeval.read(asked.data), extra) | {"provenance": provenance.provenance()}
    write_json(Path(__file__).with_suffix(".json"), found)
    print({key: found[key] for key in ("answers", "prompts", "instructions")})


if __name__ == "__main__":
    main()
