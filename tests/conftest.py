"""Shared fixtures: tiny random models made on the spot, the default model, and the development data.

Every test file loads this one, so it imports nothing that takes time: a fixture imports what it makes. A test gets the
markers of the fixtures that it uses (`MARKERS`); others stand at the tests themselves.
"""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from steereval_cases import domain
from stub_server import Stub, serving

from bench.backends.tiny import KINDS

if TYPE_CHECKING:
    from bench.backends.hf.backend import HFBackend
    from bench.backends.models import Model
    from bench.results.runs import Run
    from bench.results.tables import Table

settings.register_profile("any host", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("any host")

os.environ.setdefault("BENCH_JUDGE", "likelihood")  # the default judge loads two models
DATA = tempfile.TemporaryDirectory(prefix="bench-data-")
os.environ["BENCH_DATA"] = DATA.name  # else the user's own; each test has one too
TESTS = itertools.count()
KEY = "sk-a-key-like-no-other-0123456789"
SHIPPED = ("bench", "methods", "tasks")
MARKERS = {"default_model": "model", "browser": "browser", "served": "vllm", "committed_tables": "slow"}
"""Fixtures whose tests have a marker without saying so."""
LONG = ("test_rehearsal.py", "test_vllm.py")
"""Files that take minutes: begun first, so that none is left to the end, when the other process has nothing to do."""
TOPICS = ("Misconceptions", "Health", "Law", "Fiction", "Weather")
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
RESULTS = Path(__file__).resolve().parents[1] / "results"
ARCHIVE = RESULTS / "archive"


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name in MARKERS.keys() & getattr(item, "fixturenames", ()):
            item.add_marker(MARKERS[name])
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True)
def _own_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Results that no folder was named for lie in a folder of each test's own."""
    before = os.environ["BENCH_DATA"]
    os.environ["BENCH_DATA"] = str(tmp_path_factory.getbasetemp() / "data" / str(next(TESTS)))
    yield
    os.environ["BENCH_DATA"] = before


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test of a running vLLM says here why there is none; collecting it does not load vLLM."""
    if item.get_closest_marker("vllm"):
        from bench.backends.vllm.backend import unable

        if reason := unable():
            pytest.skip(reason)


def script(file: str) -> ModuleType:
    """A script of the repository (`tools/documents.py`) as a module, under a name that no package has."""
    path = Path(__file__).resolve().parents[1] / file
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # which a dataclass looks for
    spec.loader.exec_module(module)
    return module


def committed(method: str, task: str = "axbench", preset: str = "standard") -> Path:
    """The folder of a method's committed run under the registered settings: others may be added beside it. Runs of the
    archive come first, since nothing is added to those."""
    from bench.results.runs import read

    def meant(run: Run) -> bool:
        return run.variant == method and run.data["spec"]["protocol"]["preset"] == preset

    named = f"{task}/SmolLM2-135M-Instruct/{method}-??????????"  # its name, and ten digits
    found = [path for root in (ARCHIVE, RESULTS) for path in sorted(root.glob(named))]
    return next(path for path in found if meant(read(path / "run.json")))


@pytest.fixture(scope="session", params=KINDS)
def any_lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HFBackend:
    """A tiny random model of each kind, in fp32."""
    from bench.backends import tiny

    return tiny.engine(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def lm(tmp_path_factory: pytest.TempPathFactory) -> HFBackend:
    """One tiny random Llama in fp32."""
    from bench.backends import tiny

    return tiny.engine(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def one_model(tmp_path: Path) -> Path:
    """The committed results on the default model, where a method's name says which run is meant."""
    for folder in RESULTS.glob("*/SmolLM2-135M-Instruct"):
        task = tmp_path / "committed" / folder.parent.name
        task.mkdir(parents=True)
        (task / folder.name).symlink_to(folder)
    return tmp_path / "committed"


@pytest.fixture(scope="session")
def committed_tables() -> list[Table]:
    """The tables of all committed results, which take seconds: read them, change nothing in them."""
    from bench.results.runs import load
    from bench.results.tables import tables

    return tables(load(RESULTS))


@pytest.fixture(scope="session")
def archived_tables() -> list[Table]:
    """The tables of the archive: as above."""
    from bench.results.runs import load
    from bench.results.tables import tables

    return tables(load(ARCHIVE))


@pytest.fixture(scope="session")
def table(archived_tables: list[Table]) -> Table:
    """Of them the one of concept steering on the default model, 51 runs."""
    named = committed("diffmean") / "run.json"
    return next(one for one in archived_tables if any(row.run.path == named for row in one.rows))


@pytest.fixture(scope="session")
def default_model() -> Model:
    """The real default model (from the cache, the hub, or its wheel)."""
    from bench.backends.models import DEFAULT, resolve

    return resolve(DEFAULT)


@pytest.fixture(scope="session")
def axbench_folder() -> Path:
    """AxBench's Concept10, Gemma-2-2B layer 20, where the development data is at hand."""
    folder = SHARED / "axbench" / "concept10-2b-l20"
    if not folder.is_dir():
        pytest.skip("the AxBench Concept10 development data is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def truthfulqa_2025() -> Path:
    """TruthfulQA of January 2025, where the development data is at hand."""
    folder = SHARED / "truthfulqa-2025"
    if not folder.is_dir():
        pytest.skip("TruthfulQA of 2025 is not beside this checkout")
    return folder


def registered() -> dict[str, dict[str, type]]:
    """The registry's own tables, and none where no test has come near the registry yet."""
    registry = sys.modules.get("bench.core.registry")
    return registry._tables if registry else {}


@pytest.fixture(autouse=True)
def own_names() -> Iterator[None]:
    """What a test registers is forgotten after it, so that tests pass in any order in one process.

    What the program ships stays: its modules register once, on behalf of whichever test asks first.
    """
    before = {kind: dict(table) for kind, table in registered().items()}
    yield
    for kind, table in registered().items():
        shipped = {name: cls for name, cls in table.items() if cls.__module__.split(".")[0] in SHIPPED}
        kept = shipped | before.get(kind, {})
        table.clear()
        table.update(kept)


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A server of hosted models on this machine, which runs of this test reach by default."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as made:
        monkeypatch.setenv("OPENAI_BASE_URL", made.url)
        yield made


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Thirty questions over five topics in TruthfulQA's own layout."""
    folder = tmp_path / "truthfulqa"
    folder.mkdir()
    rows = []
    with (folder / "TruthfulQA.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Type", "Category", "Question"])
        for i in range(30):
            writer.writerow(["Adversarial", TOPICS[i % 5], f"What about {i}?"])
            true, false = {f"It is {i}.": 1}, {f"It is {i + 50}.": 0, f"Never {i}.": 0}
            rows.append(
                {
                    "question": f"What about {i}?",
                    "mc1_targets": true | false,
                    "mc2_targets": {f"{i}, as known.": 1} | true | false,
                }
            )
    (folder / "mc_task.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


@pytest.fixture
def behaviours(tmp_path: Path) -> Path:
    """Two behaviours, each with its train.csv and test.csv."""
    folder = tmp_path / "behaviours"
    for name in ("wealth-seeking", "candour"):
        (folder / name).mkdir(parents=True)
        for part, begin, count in (("train", 0, 40), ("test", 100, 30)):
            with (folder / name / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["question", "matching", "not_matching"])
                writer.writerows([f"{name} {i}?", f"Yes, {i}.", f"No, {i}."] for i in range(begin, begin + count))
    return folder


def tiny_runs(root: Path, methods: tuple[str, ...]) -> None:
    """Runs of a tiny model on two concepts below `root`: the model, a cache and results."""
    from bench.backends import tiny
    from bench.run import plan
    from bench.run.session import execute

    tiny.build(root / "model")
    options = plan.Options(methods, model=str(root / "model"), dtype="float32", limit=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(root / "cache"))
        jobs = execute(plan.make(options), root / "results")
    assert [job.reason for job in jobs] == [""] * len(methods)


@pytest.fixture
def levels(tmp_path: Path) -> Path:
    """A domain in SteerEval's layout: two concepts at each of three levels."""
    return domain(tmp_path / "sentiment", train=16, valid=5, test=12)


@pytest.fixture
def instructions(tmp_path: Path) -> Path:
    """Prompts in the layout of IFEval's file, each with one or two instructions."""
    kinds = [
        ("punctuation:no_comma", {}),
        ("length_constraints:number_words", {"relation": "at least", "num_words": 9}),
    ]
    path = tmp_path / "input_data.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(40):
            asked = kinds[: 1 + i % 2]
            row = {
                "key": i,
                "prompt": f"Write of place {i}, keeping to the rule.",
                "kwargs": [given for _, given in asked],
            }
            file.write(json.dumps(row | {"instruction_id_list": [kind for kind, _ in asked]}) + "\n")
    return path


def sums_task(folder: Path) -> None:
    """A local task of lm-eval in a new folder: `sums`, eight questions of three answers each."""
    folder.mkdir()
    rows = [{"question": f"What is {i} plus {i}?", "options": [str(2 * i), str(i), "none"], "at": 0} for i in range(8)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sums.yaml").write_text(
        f"task: sums\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder}/sums.jsonl\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "Q: {{question}}\\nA:"\n'
        "doc_to_choice: options\ndoc_to_target: at\n"
    )
