"""What others implement: `Method`, `Task`, `Judge`, `Backend` (and `Detector`, `Fitted`).

Invariant: nothing here runs a model or touches a disk; each class says what a part owes the rest.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from bench.core.content import Array, Message, digest, stored
from bench.core.definitions import code_digest, minor
from bench.core.errors import BenchError
from bench.core.protocol import Budget, Protocol as RunProtocol
from bench.core.rows import Rows
from bench.core.steering import Steering
from bench.core.surfaces import PROMPTED
from bench.core.values import (
    Activations,
    Completion,
    Concept,
    Divergence,
    Example,
    Item,
    Request,
    Sample,
    TargetScore,
    Train,
    Verdict,
)

if TYPE_CHECKING:
    from bench.core.money import SpendingLimit

Prompted = tuple[Message, ...] | str
LayerSpec = int | float | str
"""A layer setting: block index, relative depth, `a:b`, or `select` (see `Context.depths`)."""


def check_layer(spec: LayerSpec) -> None:
    """Raise ValueError where a layer setting has no meaning for any model."""
    if isinstance(spec, str) and spec != "select" and not re.fullmatch(r"-?[\d.]+:-?[\d.]+", spec):
        raise ValueError(f"layer = {spec!r} is not an index, a depth from 0 to 1, a span a:b, or select")


TOGETHER = 32
"""Texts whose activations at many layers are in memory at once."""
ReadSite = Literal["resid", "heads", "keys", "values"]


class Backend(ABC):
    """Runs requests on one model. `can` names the edits it applies (`Steering.needs`)."""

    name: ClassVar[str]
    kernels: ClassVar[tuple[Any, ...]] = ()
    """Classes and functions of other modules that decide what it answers, where its own code does not name them."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose minor versions decide it too; the first of alternatives `a|b` that is installed."""
    whole: ClassVar[bool] = False
    """Whether it is given all there is to answer at once, because many devices stand behind it."""

    @property
    @abstractmethod
    def can(self) -> frozenset[str]:
        """The capabilities it has, as `Steering.needs` names them."""

    @classmethod
    def code(cls) -> str:
        """Digest of the engine's class, its kernels and its packages' minor versions: part of `fingerprint` and of
        every run."""
        return digest(code_digest(cls, *cls.kernels), [minor(package) for package in cls.packages])

    @abstractmethod
    def fingerprint(self) -> str:
        """Digest of what decides the output: weights, dtype, template, `code`; not batch size."""

    @abstractmethod
    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Answers as (index into `requests`, completion), in any order, each as soon as it is done."""

    def logprobs(self, requests: Sequence[Request]) -> Iterator[tuple[int, TargetScore]]:
        """Log-probability of each request's `target` after its prompt, in any order."""
        raise BenchError(f"backend {self.name} cannot score given answers")

    def diverge(self, requests: Sequence[Request]) -> Iterator[tuple[int, Divergence]]:
        """How far each request's steering, its prompt included, moves the distribution over every token of its
        `target` from the bare model's after the request's own prompt, in any order."""
        raise BenchError(f"backend {self.name} cannot compare distributions")

    def activations(
        self, texts: Sequence[Prompted], layers: Sequence[int], tokens: int = 0, site: ReadSite = "resid"
    ) -> list[Activations]:
        """Activations of each text at `layers`; `tokens` > 0 cuts each after so many rows.

        `resid` is a block's output `[tokens, H]`, `heads` what its attention heads give to the output
        projection, `[tokens, heads * head_dim]`; `keys` and `values` are what its attention keeps of a token for those
        after it, `[tokens, groups * head_dim]`.
        """
        raise BenchError(f"backend {self.name} cannot read activations")

    def gradients(
        self,
        texts: Sequence[Prompted],
        layer: int,
        readout: Array,
        at: Sequence[float] = (1.0,),
        baseline: Array | None = None,
        tokens: int = 0,
    ) -> list[Array]:
        """Gradient `[tokens, H]` of f = readout · h for each text, by the output x of block `layer`.

        h is the last block's output, before the final norm, at the text's last token; rows and
        `tokens` as in `activations`. It is the mean over the points p of `at`, each taken where x is
        baseline + p·(x - baseline) at every position the rows cover; the template's shared beginning
        keeps its x.
        """
        raise BenchError(f"backend {self.name} cannot take gradients")

    @property
    def module(self) -> Any:
        """The live torch model, frozen and in evaluation mode, for fits that train through it (`train`)."""
        raise BenchError(f"backend {self.name} cannot train")

    def encode(self, prompt: Prompted, tail: str = "") -> list[int]:
        """Token ids of a chat (plus the beginning of the answer) or of a raw text."""
        raise BenchError(f"backend {self.name} does not give token ids")

    def output_projection(self, layer: int) -> Array:
        """Weight of the attention output projection of block `layer`, by head: `[H, heads, head_dim]`."""
        raise BenchError(f"backend {self.name} does not give the model's weights")

    @property
    def context(self) -> int:
        """Tokens the model can read and write in one go."""
        raise BenchError(f"backend {self.name} does not know the model's context")

    def count(self, prompt: Prompted) -> int:
        """Tokens of a chat or text."""
        raise BenchError(f"backend {self.name} does not count tokens")

    def header(self, ids: Sequence[int]) -> int:
        """Tokens of a row that stand before its own words (what every chat begins with; at least 1, the attention
        sink): edits and reads begin after them."""
        return 1

    @property
    def width(self) -> int:
        """Size of the hidden states, H."""
        raise BenchError(f"backend {self.name} does not know the size of the model's states")

    def size(self, layer: int, site: str = "resid") -> int:
        """Numbers in the state of one token at a site (`Site`) of a block."""
        return self.width

    @property
    def layers(self) -> int:
        """Number of decoder blocks."""
        raise BenchError(f"backend {self.name} does not know the model's layers")

    def findings(self) -> Mapping[str, Any]:
        """What was found of the model before it was believed, as JSON: how chats are said to it, and once its weights
        are loaded what they are."""
        return {}


@runtime_checkable
class Detector(Protocol):
    """Scores how strongly texts show a concept: a frozen dataclass, so that it can be stored."""

    def score(self, ctx: Context, texts: Sequence[Example]) -> Array:
        """`[len(texts)]`, larger where the concept is stronger; reads what it needs through `ctx`."""


@runtime_checkable
class Bound(Protocol):
    """A steering that depends on the prompt: bound per request, keyed after binding."""

    def bind(self, lm: Backend, messages: tuple[Message, ...]) -> Steering: ...


@runtime_checkable
class Chooser(Protocol):
    """Answers each sample `n` times and keeps one: inference-time scaling.

    What it looks for is the concept: a task that brings its own prompts asks for something else, and none runs there.
    """

    @property
    def n(self) -> int: ...

    def pick(self, ctx: Context, sample: Sample, answers: Sequence[str]) -> int:
        """Index of the answer to keep; it may not ask the run's judge."""


@runtime_checkable
class OptionRater(Protocol):
    """Rates the options of a multiple choice, by the model's log-probabilities or in their place: a control."""

    def rate(self, options: Sequence[str], logprobs: Sequence[float]) -> Sequence[float]:
        """What stands for each option's log-probability (nats)."""


@stored
@dataclass(frozen=True)
class Fitted:
    """One candidate of a fit: a steering (or one bound per prompt), a detector, or both.

    `chooser` samples every answer several times and keeps one; `rater` rates options in the model's place.
    """

    steering: Steering | Bound | None = None
    detector: Detector | None = None
    note: Mapping[str, Any] = field(default_factory=dict)
    chooser: Chooser | None = None
    rater: OptionRater | None = None
    factor: float | None = None
    """What its vector, of its own length, is multiplied with at c = 1 in strength mode `max-act`; 0: the largest score
    of its detector. None: a vector's own length says nothing, and c = 1 is that score along it."""
    coefficients: tuple[float, ...] = ()
    """What it is tried at in place of the protocol's coefficients, where a strength of another kind picks itself: all
    candidates of a fit together at no more settings than the budget has trials."""


T = TypeVar("T")


def _silent(line: str) -> None:
    """Say nothing."""


@dataclass
class Context:
    """What a fit may use. `read` caches activations, so methods on the same texts share one pass.

    `trains` are the training data of all the run's concepts (a method that reads them sets
    `needs_all_concepts`); `rate` asks the run's calibrated judge (a method that uses it sets `uses_judge`). `compat` is
    the protocol's mode, `log` takes a line about long work, and `shared` is what a session's fits have in common in
    memory, by name.
    """

    lm: Backend
    budget: Budget
    seed: int = 0
    prompter: Backend | None = None
    rate: Rate | None = None
    trains: tuple[Train, ...] = ()
    cache: Callable[[Any, Callable[[], Any]], Any] | None = None
    compat: str = ""
    log: Callable[[str], None] = _silent
    shared: dict[str, Any] = field(default_factory=dict)
    _cache: dict[tuple[Prompted, int, str, bool], Activations] = field(default_factory=dict)

    def read(
        self, texts: Sequence[Prompted], layers: int | Sequence[int], site: ReadSite = "resid"
    ) -> list[Activations]:
        """Activations of each text at one or several layers, cut at the budget's tokens.

        Layers that are not cached yet are read in one pass.
        """
        wanted = (layers,) if isinstance(layers, int) else tuple(layers)
        self._fetch(texts, wanted, site, self.budget.tokens)
        found = []
        for text in texts:
            parts = {layer: self._cache[text, layer, site, False] for layer in wanted}
            values = {layer: part.values[layer] for layer, part in parts.items()}
            found.append(Activations(values, parts[wanted[0]].response))
        return found

    def last(
        self, texts: Sequence[Prompted], layers: int | Sequence[int], site: ReadSite = "resid"
    ) -> dict[int, Array]:
        """layer -> activations `[len(texts), H]` at the last token of each text, however long it is."""
        wanted = (layers,) if isinstance(layers, int) else tuple(layers)
        self._fetch(texts, wanted, site, 0)
        end = self.budget.tokens != 0
        return {
            layer: np.stack([self._cache[text, layer, site, end].values[layer][-1] for text in texts])
            for layer in wanted
        }

    def means(self, texts: Sequence[Prompted], layers: Sequence[int], site: ReadSite = "resid") -> dict[int, Array]:
        """layer -> the mean `[len(texts), H]` over the tokens of each text's answer, cut at the budget's tokens; over
        its last token where that leaves none. Nothing is cached, so that many layers can be read."""
        found: dict[int, list[Array]] = {layer: [] for layer in layers}
        for begin in range(0, len(texts), TOGETHER):
            for read in self._pass(texts[begin : begin + TOGETHER], layers, self.budget.tokens, site):
                for layer, means in found.items():
                    means.append(read.answer(layer).mean(0))
        return {layer: np.stack(rows) for layer, rows in found.items()}

    def _fetch(self, texts: Sequence[Prompted], layers: Sequence[int], site: ReadSite, tokens: int) -> None:
        """Fill the cache in one pass over the texts that lack a layer; whole texts keep their last row."""
        end = tokens != self.budget.tokens
        todo = [t for t in dict.fromkeys(texts) if any((t, k, site, end) not in self._cache for k in layers)]
        missing = sorted({k for t in todo for k in layers if (t, k, site, end) not in self._cache})
        if not todo:
            return
        for text, found in zip(todo, self._pass(todo, missing, tokens, site), strict=True):
            for layer in missing:
                rows = found.values[layer][-1:] if end else found.values[layer]
                self._cache[text, layer, site, end] = Activations({layer: rows}, found.response)

    def _pass(self, texts: Sequence[Prompted], layers: Sequence[int], tokens: int, site: ReadSite) -> list[Activations]:
        return self.lm.activations(texts, layers, tokens, site)

    def tokens(self, examples: Sequence[Example], layer: int) -> Array:
        """All token activations `[N, H]` of `examples` (instruction and response) at `layer`."""
        reads = self.read([example.messages for example in examples], layer)
        return np.concatenate([read.values[layer] for read in reads])

    def layer(self, spec: LayerSpec) -> int:
        """A layer index: an int counts blocks (negative from the end), a fraction is relative depth."""
        count = self.lm.layers
        if isinstance(spec, str):
            raise BenchError(f"layer {spec!r} is several layers, where this method takes one")
        index = spec if isinstance(spec, int) else int(spec * count)
        if not -count <= index < count or (isinstance(spec, float) and not 0 <= spec < 1):
            raise BenchError(f"layer {spec} does not exist: the model has layers 0 to {count - 1}")
        return index % count

    def depths(self, spec: LayerSpec) -> list[tuple[int, ...]]:
        """The candidates a layer setting stands for, each with the layers it edits together.

        An index or a relative depth is one layer; `a:b` a span, both ends in it (`0.3:0.6`,
        `-18:-5`); `select` one candidate for each judged trial, spread evenly over the blocks.
        """
        if spec == "select":
            n, count = self.budget.trials, self.lm.layers
            return [(layer,) for layer in sorted({int((i + 0.5) / n * count) for i in range(n)})]
        if not isinstance(spec, str):
            return [(self.layer(spec),)]
        try:
            first, last = (self.layer(float(end) if "." in end else int(end)) for end in spec.split(":"))
        except ValueError as error:
            raise BenchError(f"layer {spec!r}: an index, a depth from 0 to 1, a span a:b, or select") from error
        if first > last:
            raise BenchError(f"layer {spec!r} is empty: {first} lies above {last}")
        return [tuple(range(first, last + 1))]

    def cached(self, key: Any, make: Callable[[], T], *definitions: Any) -> T:
        """What `make` gives, stored where the run keeps artefacts: under the model, `key`, and the code of the
        `definitions` that `make` uses."""
        return make() if self.cache is None else self.cache((code_digest(*definitions), key), make)

    def rng(self, *salt: object) -> np.random.Generator:
        """A generator that depends on the run's seed and `salt` alone."""
        return np.random.default_rng(int(digest(self.seed, *map(str, salt)), 16))


class Method(ABC):
    """A steering or detection method: a frozen dataclass whose fields are its hyper-parameters."""

    name: ClassVar[str] = ""
    surface: ClassVar[str] = ""
    """What it changes (`bench.core.surfaces`)."""
    paper: ClassVar[str] = ""
    views: ClassVar[frozenset[str]] = frozenset({"texts"})
    """Training views it needs: `texts`, `pairs`, `choices`, `personas`, `conditions`; none for a control."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Capabilities its steering and its fit (`train`) will need: support is decided before a model is loaded."""
    deterministic: ClassVar[bool] = True
    antisymmetric: ClassVar[bool] = False
    """Whether swapping positives and negatives must flip the steering."""
    recovers: ClassVar[bool] = False
    """Whether a planted direction must be recovered with |cos| > 0.99."""
    validated: ClassVar[bool] = True
    """False: shown as unvalidated and not ranked, until a positive control exists."""
    suppresses: ClassVar[bool] = False
    """Its steering can only remove a concept: tables say so beside its name."""
    provides: ClassVar[frozenset[str]] = frozenset({"steering"})
    """`steering`, `detector`, or both: which tasks can use it; `options` alone: multiple choice and nothing else."""
    named: ClassVar[bool] = False
    """Runs only when named: `all` leaves it out."""
    uses_prompter: ClassVar[bool] = False
    """Whether a language model (`--prompter`, else the target) writes for it."""
    uses_judge: ClassVar[bool] = False
    """Whether a fit asks the run's judge."""
    needs_all_concepts: ClassVar[bool] = False
    """Whether a fit reads the training data of the run's other concepts."""
    sweeps: ClassVar[bool] = True
    """Whether each candidate is tried at every coefficient; else candidates are settings, each with a strength of its
    own (`Fitted.coefficients`)."""
    one_way: ClassVar[bool] = False
    """Whether its steering has no opposite: tasks that suppress a concept refuse it."""
    points_away: ClassVar[bool] = False
    """Whether its steering points away from the concept as it is (no task opposes it)."""

    @property
    def prompted(self) -> bool:
        """Whether it stands on the side that prompts."""
        return self.surface in PROMPTED

    @property
    def members(self) -> tuple[Method, ...]:
        """The methods that it is made of; none for one by itself."""
        return ()

    @property
    def family_tree(self) -> list[Method]:
        """The method with all that it is made of."""
        return [self, *(part for member in self.members for part in member.family_tree)]

    @property
    def definitions(self) -> tuple[type[Any], ...]:
        """The classes that decide its fits: its own, and what its fields name besides."""
        return (type(self),)

    @abstractmethod
    def fit(self, ctx: Context, train: Train) -> Sequence[Fitted]:
        """Candidates for one concept; usually one, several where a prompt or layer is to be chosen."""

    def fit_all(self, ctx: Context, trains: Sequence[Train]) -> Iterator[Sequence[Fitted]]:
        """One `fit` after the other; methods that train many concepts together override this."""
        for train in trains:
            yield self.fit(ctx, train)

    def under(self, compat: str) -> Method:
        """The method as a compatibility mode (`Protocol.compat`) has it; default: as it is."""
        return self

    def prompt_writing_cost(self, budget: Budget) -> tuple[int, int]:
        """Generations and tokens a fit asks of the model for one concept, at most."""
        return 0, 0

    def fit_ratings(self, budget: Budget) -> int:
        """Ratings that a fit asks of the run's judge for one concept, at most."""
        return 0

    def training(self, budget: Budget) -> tuple[int, int]:
        """Rows and tokens a fit sends through the model to train on for one concept, at most."""
        return 0, 0

    def candidates(self, budget: Budget) -> int:
        """Candidates a fit gives at most; each is tried on the select split."""
        if getattr(self, "layer", None) == "select" or self.prompted:
            return budget.trials
        return 1

    def samples_per_prompt(self, budget: Budget) -> int:
        """Answers written for each question, of which one is kept."""
        return 1

    @classmethod
    def summary(cls) -> str:
        return (inspect.getdoc(cls) or "").split("\n")[0]

    def params(self) -> dict[str, Any]:
        if not dataclasses.is_dataclass(self):
            return {}
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


class Judge(ABC):
    """An instrument that rates texts on axes, 0 to 2."""

    name: ClassVar[str]
    reads_target: ClassVar[bool] = False
    """Whether it asks the model under test for more than its answers."""
    independent: ClassVar[bool] = False
    """Asks no model that a prompt baseline uses, so that its word counts as a second opinion."""

    @property
    def where(self) -> str:
        """The model and the address that texts are sent to; "" where everything stays on this machine."""
        return ""

    @property
    def whole(self) -> bool:
        """Whether it takes all items in one call, because each call waits for hours: none are left to others then."""
        return False

    @abstractmethod
    def fingerprint(self) -> Mapping[str, Any]:
        """What decides its ratings besides the item."""

    def check(self, ask: bool = False) -> None:  # noqa: B027
        """Raise where it could not rate anything: a package or a key is missing, or (with `ask`) what it asks does not
        answer one short question."""

    def prepare(self, backend: Backend, keep: Rows, trains: Sequence[Train]) -> None:  # noqa: B027
        """Calibrate on training texts and keep measurements; nothing to do for most judges."""

    def key(self, item: Item) -> Any:
        """What decides the rating of `item` beyond the fingerprint; default: the item."""
        return item

    def report(self) -> Mapping[str, Any]:
        """What a reader should know of the calibration; kept in each run."""
        return {}

    @abstractmethod
    def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        """Ratings as (index into `items`, verdict), in any order; never a default score."""

    def release(self) -> None:  # noqa: B027
        """Free what a rating may have loaded; the next one loads it again."""

    def fund(self, purse: SpendingLimit) -> None:  # noqa: B027
        """Pay for asking from `purse`; nothing to do for a judge that costs no money."""

    def account(self, put: Callable[[Mapping[str, Any]], None]) -> None:  # noqa: B027
        """Hand `usage` to `put` whenever money is set aside or spent; nothing to do for a judge that costs none."""

    def estimate(self, ratings: int, tokens: int) -> Mapping[str, Any]:
        """What so many ratings of texts of `tokens` tokens take: `prompt_tokens`, `tokens`, `dollars`."""
        return {}

    def usage(self) -> Mapping[str, Any]:
        """What asking has taken so far in this process (`bench.core.money.Usage`); kept in each run."""
        return {}


Rate = Callable[[Sequence[Item]], list[Verdict]]
"""Rates items with the run's judge, through its cache."""


class Task(ABC):
    """A benchmark: concepts, their training views, select and test samples, and a score."""

    name: ClassVar[str] = ""
    axes: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[Literal["steering", "detector"]] = "steering"
    """What it asks of a method. Under `detector` the samples are texts, and what rates them is the
    method's own detector in place of the judge."""
    scale: ClassVar[float] = 2.0
    """The largest value of an axis; the smallest is 0."""
    rated: ClassVar[bool] = True
    """Whether a judge rates the answers."""
    ratings: ClassVar[int] = 0
    """Ratings that one answer takes; 0: one for each axis."""
    decides: ClassVar[bool] = True
    """Whether its score may decide between steering and prompting; False where a form of answer alone earns it."""
    told: ClassVar[str] = ""
    """How its scores come about, for the notes of a table, where not by ratings alone or by probabilities."""
    composes: ClassVar[str] = ""
    """The task of one wish at a time of which this asks for two: concepts `a+b`, axes `first` and `second`."""
    multiple_choice: ClassVar[bool] = False
    """Whether it gives the answers, of which the likeliest counts."""
    derives: ClassVar[frozenset[str]] = frozenset()
    """Training views that a run may make of others where the data brings none (`bench.run.views`)."""
    suppresses_concept: ClassVar[bool] = False
    """Whether the concept must not show: edits are negated, and prompting methods see the data reversed."""

    protocol: RunProtocol
    """How it is run: a field that every task has, given when it is built. `protocol.concepts` limits them."""

    @abstractmethod
    def concepts(self) -> Sequence[Concept]:
        """What is steered to (or detected), each once."""

    @abstractmethod
    def train(self, concept: Concept) -> Train:
        """The training views of a concept."""

    def calibration(self) -> Sequence[Train]:
        """What a judge is calibrated on: texts of the concepts that are rated, which may be others than are taught."""
        return [self.train(concept) for concept in self.concepts()]

    @abstractmethod
    def select(self, concept: Concept) -> Sequence[Sample]:
        """The questions that settings are chosen by."""

    @abstractmethod
    def test(self, concept: Concept) -> Sequence[Sample]:
        """The questions that are reported; none of them is asked for selection or shown in training."""

    @abstractmethod
    def score(
        self, samples: Sequence[Sample], outputs: Sequence[Completion], rate: Rate
    ) -> Sequence[dict[str, Verdict]]:
        """Per sample the verdict of each axis, and `overall`."""

    @property
    def digest(self) -> str:
        """Names the data in a result's identity; default: every concept with its training views and samples."""
        rows = [(c, self.train(c), tuple(self.select(c)), tuple(self.test(c))) for c in self.concepts()]
        return digest(rows)

    @property
    def sources(self) -> Mapping[str, str]:
        """Training view -> where the data has it from, where that is not plain."""
        return {}

    @staticmethod
    def part_of(concept: str) -> str:
        """The part of the data that a concept belongs to, by its name: a report shows methods by part where there are
        several. "" for data without parts."""
        return ""

    @property
    def withholds(self) -> frozenset[str]:
        """Axes whose answers are not to be published: checked results keep their digest and first words."""
        return frozenset()

    def evaluation(self, concept: Concept) -> Sequence[tuple[Example, str]]:
        """Labelled texts (positive, negative, hard negative) that judges are validated on; none by default."""
        return ()


@runtime_checkable
class Monitored(Protocol):
    """A task that names chats of which some lead to the concept; `label` says which kind a chat is."""

    def watched(self, concept: Concept) -> Sequence[Sample]: ...


@runtime_checkable
class Examiner(Protocol):
    """A task that tries the judge on examples of its own, whose ratings are known, before anything is answered."""

    def misjudges(self, rate: Rate) -> str:
        """What a judge that cannot rate this task gets wrong, as a clause; empty where it can."""
