"""AxBench-layout data for a user's own concepts, written by a language model.

Invariant: every reply is kept under what was asked as soon as it is there, so the same command goes on
where a killed one stopped; the tables are written whole, last.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from bench.backends.hosted.backend import OpenAIBackend
from bench.core.content import digest
from bench.core.documents import read_json
from bench.core.errors import BenchError, UsageError
from bench.core.interfaces import Backend
from bench.core.money import Ledger, SpendingLimit, price_of
from bench.core.registry import get
from bench.core.rows import Rows
from bench.core.shapes import Text as Spoken
from bench.core.store import write_json, write_over
from bench.core.values import Completion, Request, Sampling
from bench.data import check, layout, prompts, quality
from bench.data.layout import EVALUATION, GENRES, METADATA, SHARED, TRAIN, Text, fold
from bench.data.quality import Answer

OTHER_GENRES = 0.15
"""Share of the evaluation negatives that each of the math and code genres has, as in AxBench."""


@dataclass(frozen=True)
class Recipe:
    """How much is made of what; the defaults are AxBench's."""

    per_concept: int = 72
    """Training positives of a concept, and shared training negatives of a genre."""
    evaluation: int = 36
    hard: int = 10
    tokens: int = 128
    temperature: float = 1.0
    seed: int = 0
    tries: int = 3
    """How often an empty or refused answer is asked for in all."""


@dataclass(frozen=True)
class Draft:
    """A text to be written: its place in the tables, and what the generator is asked."""

    text: Text
    prompt: str


@dataclass
class Generator:
    """A language model whose replies are kept in `rows`."""

    backend: Backend
    rows: Rows
    recipe: Recipe
    tell: Callable[[str], None]
    asked: set[str] = field(default_factory=set)
    written: int = 0
    """Replies written now, and not by an earlier command."""

    def ask(self, what: str, questions: Sequence[str], attempt: int = 0, tokens: int = 0) -> list[Completion]:
        """One reply a question; `what` names the stage for a person."""
        sampling = Sampling(tokens or self.recipe.tokens, self.recipe.temperature)
        requests = {}
        for text in questions:
            seed = int(digest(self.recipe.seed, text, attempt), 16) % 2**63
            request = Request((("user", text),), None, sampling, seed)
            requests[digest(self.backend.fingerprint(), request)] = request
        keys = list(requests)
        todo = [key for key in keys if key not in self.rows]
        if questions:
            self.tell(f"{what}: {len(keys) - len(todo)} there, {len(todo)} to write")
        for mine in self.rows.portions(todo):
            for i, completion in self.backend.generate([requests[key] for key in mine]):
                self.rows.put(mine[i], dataclasses.asdict(completion))
                self.written += 1
        self.asked.update(keys)
        places = {requests[key].prompt: key for key in keys}
        found = [self.rows.get(places[(("user", text),)]) for text in questions]
        return [Completion(**row | {"positions_edited": tuple(row["positions_edited"])}) for row in found]

    def read(
        self, what: str, questions: Sequence[str], parse: Callable[[str], Any], tokens: int, due: bool = False
    ) -> list[Any]:
        """Parsed replies; those that cannot be read (None) are asked for again, then stay None. Where the command ends
        in an error for one that is `due`, those that an earlier command kept are no tries of this one's."""
        found: list[Any] = [None] * len(questions)
        attempt = tries = 0
        while tries < self.recipe.tries and (open_ := [i for i, value in enumerate(found) if value is None]):
            before = self.written
            replies = self.ask(what, [questions[i] for i in open_], attempt, tokens)
            attempt, tries = attempt + 1, tries + (self.written > before or not due)
            for i, reply in zip(open_, replies, strict=True):
                found[i] = None if reply.spoken is None else parse(reply.spoken)
        return found

    def write(self, what: str, drafts: Sequence[Draft]) -> list[Answer]:
        """The drafts' texts; an empty or refused one is asked for again, then is left out with its reason."""
        found: dict[int, Answer] = {}
        for attempt in range(self.recipe.tries):
            open_ = [i for i in range(len(drafts)) if i not in found or found[i].why]
            replies = self.ask(what, [drafts[i].prompt for i in open_], attempt)
            for i, reply in zip(open_, replies, strict=True):
                response = prompts.cleaned(reply.spoken or "")
                why = "empty" if not response else "refused" if prompts.refused(response) else ""
                text = dataclasses.replace(drafts[i].text, response=response)
                found[i] = Answer(text, why, reply.finish == "length")
        return [found[i] for i in range(len(drafts))]

    @property
    def tokens(self) -> int:
        return sum(self.rows.get(key)["tokens"] for key in self.asked)


def make(
    concepts: Path | str,
    generator: str,
    out: Path,
    recipe: Recipe,
    instructions: Path | None,
    tell: Callable[[str], None],
    force: bool = False,
    purse: SpendingLimit | None = None,
    price: Sequence[float] = (),
) -> dict[str, Any]:
    """Make a data folder at `out`; returns its quality report, which stands there as `quality.json`.

    `concepts` is a file of them, or the text of one.

    A hosted generator is paid from `purse`, at `price` (dollars per million tokens read, written) where the listed one
    is not to be used. Raises UsageError, unless `force`, where its tables are there and this did not make them as they
    are.
    """
    begun = (out / REPLIES).is_dir()  # a killed command may have written tables that quality.json does not know yet
    if not (force or begun) and (foreign := next((f for f in TABLES if (out / f).is_file() and not _made(out, f)), "")):
        raise UsageError(f"{out / foreign} was not made here: name another --out, or write over it by --force")
    wanted = (
        read_concepts(concepts) if isinstance(concepts, Path) else [{"concept": concepts, "genre": "text", "ref": ""}]
    )
    given = read_instructions(instructions) if instructions else {}
    backend = engine(generator, purse, price)
    rows, spending = Rows(out / REPLIES), Rows(out / "spending")
    ledger = Ledger(spending)
    hosted = backend if isinstance(backend, OpenAIBackend) else None
    if hosted:
        hosted.usage.note = lambda usage: ledger.put(usage.plain(hosted.price))
        tell(estimate(len(wanted), recipe, hosted))
    try:
        writer = Generator(backend, rows, recipe, tell)
        _genres(writer, wanted)
        pools = _pools(writer, wanted, given)
        answers = _answers(writer, wanted, pools)
    finally:
        if hosted:
            ledger.put(hosted.usage.plain(hosted.price))
        spending.close()
        rows.close()
    files = layout.encode(wanted, [answer.text for answer in answers if not answer.why])
    write_over({out / f: content for f, content in files.items()}, force, lambda path: _made(out, path))
    checked = check.check(out)
    found = {
        "generator": generator,
        "recipe": vars(recipe),
        "requests": len(writer.asked),
        "tokens": writer.tokens,
        **({"spent": ledger.ever()} if hosted else {}),
        **quality.report(answers, wanted),
        "check": {k: check.plain_report(checked)[k] for k in ("errors", "warnings")},
        "files": {file: _digest(content) for file, content in files.items()},
    }
    write_json(out / QUALITY, found)
    return found


REPLIES, QUALITY = "replies", "quality.json"
TABLES = (TRAIN, EVALUATION, METADATA)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class Made(TypedDict):
    """What of a `quality.json` tells the tables that stand there from others."""

    files: dict[str, str]


def _made(out: Path, file: str | Path) -> bool:
    """Whether a table of `out` is as `make` wrote it last."""
    try:
        kept = read_json(out / QUALITY, Made, "a report of what was made")["files"]
        return bool(kept.get(Path(out / file).relative_to(out).as_posix()) == _digest((out / file).read_bytes()))
    except (OSError, BenchError):
        return False


def estimate(concepts: int, recipe: Recipe, backend: OpenAIBackend) -> str:
    """What a hosted generator is about to be asked, where every first answer can be read, as a line."""
    own = recipe.per_concept + 2 * recipe.evaluation + 4 * recipe.hard
    requests = len(GENRES) * recipe.per_concept + concepts * own
    written = requests * recipe.tokens
    cost = f": about ${backend.price.of(requests * ASKED, written):.2f} at most" if backend.price else ""
    return f"{backend.model}: about {requests:,} requests and at most {written:,} tokens written{cost}"


ASKED = 150
"""Tokens of a question to the generator."""


def engine(name: str, purse: SpendingLimit | None = None, price: Sequence[float] = ()) -> Backend:
    """The backend of `openai:MODEL`, `vllm:MODEL` or `hf:MODEL`; nothing is loaded yet."""
    kind, _, model = name.partition(":")
    if kind not in ("openai", "vllm", "hf", "fake") or (not model and kind != "fake"):
        raise UsageError(f"unknown generator {name!r}: give openai:MODEL, vllm:MODEL or hf:MODEL")
    cls = get("backend", kind)
    if kind == "openai":
        made: Backend = cls(model, price=price, purse=purse)
        if purse and purse.limit and price_of(model, price) is None:
            raise UsageError(f"--max-cost: no price is known for {model}: give --price IN,OUT")
    elif kind == "fake":
        made = cls()
    else:
        from bench.backends.models import resolve

        made = cls(resolve(model))
    return made


# What the user gives


def read_concepts(path: Path) -> list[dict[str, Any]]:
    """Concepts of a CSV file with the column `concept` (and `genre`, `ref` or `url`), or one a line of a .txt."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".txt":
                table: list[dict[str, Any]] = [{"concept": line.strip()} for line in file if line.strip()]
            else:
                table = list(csv.DictReader(file))
    except (OSError, UnicodeError, csv.Error) as error:
        raise UsageError(f"cannot read concepts {path}: {error}") from error
    found, seen = [], set()
    for row, values in enumerate(table):
        text, genre = ((values.get(k) or "").strip() for k in ("concept", "genre"))
        if not text:
            raise UsageError(f"{path.name} row {row}: no concept (the file needs a column named concept)")
        if fold(text) in seen:
            raise UsageError(f"{path.name} row {row}: concept {text!r} is there twice")
        if genre and genre not in GENRES:
            raise UsageError(f"{path.name} row {row}: genre {genre!r} is none of {', '.join(GENRES)}")
        seen.add(fold(text))
        found.append({"concept": text, "genre": genre, "ref": (values.get("ref") or values.get("url") or "").strip()})
    if not found:
        raise UsageError(f"{path.name} holds no concept")
    return found


class Instruction(TypedDict):
    """An entry that also says of what genre it is."""

    instruction: Spoken
    genre: NotRequired[str | None]


def read_instructions(path: Path) -> dict[str, list[str]]:
    """genre -> instructions of a JSON list: of texts, or of objects with `instruction` (and `genre`)."""
    data = read_json(path, list[Spoken | Instruction], "a list of instructions", error=UsageError)
    found: dict[str, list[str]] = {}
    for entry in ({"instruction": one} if isinstance(one, str) else one for one in data):
        found.setdefault(entry.get("genre") or "text", []).append(entry["instruction"].strip())
    if not found or (strange := set(found) - set(GENRES)):
        reason = f"genre {min(strange)!r} is none of {', '.join(GENRES)}" if found else "it is no list of instructions"
        raise UsageError(f"{path.name}: {reason}")
    return found


# The stages


def _genres(writer: Generator, concepts: Sequence[dict[str, Any]]) -> None:
    open_ = [one for one in concepts if not one["genre"]]
    found = writer.read("genres", [prompts.genre(one["concept"]) for one in open_], prompts.read_genre, 16, due=True)
    for one, genre in zip(open_, found, strict=True):
        if genre is None:
            raise BenchError(
                f"the generator names no genre for {one['concept']!r}: put one in a column `genre` of the concepts"
            )
        one["genre"] = genre


def _mix(recipe: Recipe) -> dict[str, int]:
    other = int(recipe.evaluation * OTHER_GENRES)
    return {"text": recipe.evaluation - 2 * other, "math": other, "code": other}


def _pools(
    writer: Generator, concepts: Sequence[Mapping[str, Any]], given: Mapping[str, Sequence[str]]
) -> dict[tuple[str, str], list[str]]:
    """(genre, split) -> different instructions, the user's first; no text is in two pools."""
    recipe, seen = writer.recipe, set()
    pools = {}
    for genre in GENRES:
        own = recipe.evaluation + recipe.hard if any(one["genre"] == genre for one in concepts) else 0
        need = recipe.per_concept + own + _mix(recipe)[genre]
        found: list[str] = []

        def take(texts: Sequence[str], found: list[str] = found, need: int = need) -> None:
            for text in texts:
                if len(found) < need and fold(text) not in seen:
                    seen.add(fold(text))
                    found.append(text)

        mine = list(given.get(genre, ()))
        order = np.random.default_rng(int(digest(recipe.seed, genre), 16)).permutation(len(mine))
        take([mine[i] for i in order if len(mine[i]) < 500])
        asked, spent, most = 0, 0, 4 * -(-need // prompts.EACH) + 10
        while len(found) < need and spent < most:  # what an earlier command kept is not spent again
            before = writer.written
            number = min(-(-(need - len(found)) // prompts.EACH), most - spent)
            rounds = [divmod(asked + k, len(prompts.TOPICS)) for k in range(number)]
            asked += number
            for repeat in sorted({r for r, _ in rounds}):
                questions = [prompts.instructions(genre, prompts.TOPICS[t]) for r, t in rounds if r == repeat]
                for reply in writer.ask(f"{genre} instructions", questions, repeat, 400):
                    take(prompts.read_instructions(reply.spoken or ""))
            spent += writer.written - before
        if len(found) < need:
            raise BenchError(
                f"the generator wrote {len(found)} usable {genre} instructions of {need}: give your own "
                "with --instructions FILE, or ask for less"
            )
        pools[genre, "train"], pools[genre, "test"] = found[: recipe.per_concept], found[recipe.per_concept :]
    return pools


def _answers(
    writer: Generator, concepts: Sequence[Mapping[str, Any]], pools: Mapping[tuple[str, str], Sequence[str]]
) -> list[Answer]:
    shared = [
        Draft(Text(TRAIN, 0, "train", SHARED, "negative", genre, ask, ""), ask)
        for genre in GENRES
        for ask in pools[genre, "train"]
    ]
    found = writer.write("train negatives", shared)
    contrasts = _contrasts(writer, concepts)
    for number, one in enumerate(concepts):
        name, concept, genre = str(number), one["concept"], one["genre"]
        rng = np.random.default_rng(int(digest(writer.recipe.seed, "questions", concept), 16))
        free = {g: [str(text) for text in rng.permutation(pools[g, "test"])] for g in GENRES}

        def draft(category: str, ask: str, prompt: str, kind: str, sense: str = "", name: str = name) -> Draft:
            return Draft(Text(EVALUATION, 0, "evaluation", name, category, kind, ask, "", sense), prompt)

        drafts = [
            Draft(Text(TRAIN, 0, "train", name, "positive", genre, ask, ""), prompts.positive(concept, ask))
            for ask in pools[genre, "train"]
        ]
        for ask in _take(free[genre], writer.recipe.evaluation):
            drafts.append(draft("positive", ask, prompts.positive(concept, ask), genre))
        for kind, count in _mix(writer.recipe).items():
            for ask in _take(free[kind], count):
                drafts.append(draft("negative", ask, prompts.avoiding(concept, ask), kind))
        for word, sense in contrasts[name]:
            (ask,) = _take(free[genre], 1)
            prompt = prompts.hard(word, sense, concept, ask)
            drafts.append(draft("hard negative", ask, prompt, genre, f"{word}//{sense}"))
        found += writer.write(f"concept {number + 1} of {len(concepts)}", drafts)
    return found


def _take(pool: list[str], count: int) -> list[str]:
    """The next `count` of a pool, taken out of it."""
    taken, pool[:count] = pool[:count], []
    return taken


def _contrasts(writer: Generator, concepts: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[str, str]]]:
    """concept -> words that belong to it, each with another sense that does not (checked by the generator)."""
    lists = writer.read(
        "related words", [prompts.related(one["concept"]) for one in concepts], prompts.read_related, 80
    )
    pairs = [(str(i), one["concept"], w) for i, one in enumerate(concepts) for w in lists[i]]
    questions = [prompts.sense(word, concept) for _, concept, word in pairs]
    senses = [prompts.read_sense(reply.spoken or "") for reply in writer.ask("other senses", questions, tokens=48)]
    open_ = [(name, concept, w, s) for (name, concept, w), s in zip(pairs, senses, strict=True) if s]
    verdicts = writer.ask("sense checks", [prompts.unrelated(w, s, concept) for _, concept, w, s in open_])
    found: dict[str, list[tuple[str, str]]] = {str(i): [] for i in range(len(concepts))}
    for (name, _, word, sense), reply in zip(open_, verdicts, strict=True):
        if prompts.read_unrelated(reply.spoken or "") and len(found[name]) < writer.recipe.hard:
            found[name].append((word, sense))
    return found
