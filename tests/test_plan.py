"""Plans, held to the design's budgets, to the names that exist, and to the identity of a run.

A preset that changes makes results incomparable, so its rows are written here a second time. A plan's
numbers are held against what a run with the fake backend then really spends.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
from click.testing import CliRunner, Result

from bench import results
from bench.backends.fake.backend import FakeBackend
from bench.backends.models import Model
from bench.cli.main import main
from bench.core import registry
from bench.core.errors import UsageError
from bench.core.interfaces import Judge
from bench.core.naming import build_method, select
from bench.core.protocol import PRESETS, Budget, Protocol, RunSpec, protocol
from bench.core.registry import build
from bench.core.values import Item, Request, Sampling, Verdict
from bench.run.plan import Options, from_file, make
from bench.run.spending import spend


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("OPENAI_API_KEY", "a key that no plan shows anyone")


def bench(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


def fake(methods: Sequence[str] = ("none",), **options: Any) -> Options:
    return Options(methods=tuple(methods), backend="fake", **options)


# The budget table of DESIGN §6


BUDGETS = {
    "quick": (3, 2, 3, 32, Budget(sequences=24, tokens=64, epochs=2, trials=3)),
    "standard": (5, 4, 6, 48, Budget(sequences=72, tokens=64, epochs=3, trials=5)),
    "paper": (14, 5, 5, 128, Budget(sequences=144, tokens=512, epochs=0, trials=14)),
}


@pytest.mark.parametrize("preset", BUDGETS)
@pytest.mark.parametrize("mode", ["norm", "max-act"])
def test_a_preset_holds_the_designs_budget(preset: str, mode: str) -> None:
    coefficients, chosen, tested, new, budget = BUDGETS[preset]
    rules = protocol(preset, mode)
    assert len(rules.coefficients) == coefficients
    assert (rules.select, rules.test) == (chosen, tested)
    assert rules.sampling == Sampling(max_new_tokens=new, temperature=1.0, top_k=50)
    assert rules.budget == budget
    assert rules.preset == preset
    assert rules.strength == mode
    assert list(rules.coefficients) == sorted(set(rules.coefficients))
    assert min(rules.coefficients) > 0


def test_there_are_three_presets_and_prompting_gets_as_many_trials_as_steering() -> None:
    assert set(PRESETS) == set(BUDGETS)
    for preset in BUDGETS:
        assert protocol(preset).budget.trials == len(protocol(preset).coefficients)


def test_the_papers_factors_are_axbenchs() -> None:
    factors = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0)
    rules = protocol("paper", compat="axbench")
    assert rules.coefficients == factors
    assert rules.strength == "max-act"
    assert rules.compat == "axbench"


def test_coefficients_stand_where_text_survives() -> None:
    """DESIGN §6: beyond about 0.5 median norms the default model's text collapses."""
    assert protocol("quick").coefficients == (0.2, 0.35, 0.5)
    assert protocol("standard").coefficients == (0.1, 0.2, 0.3, 0.4, 0.55)


def test_the_bare_default_is_quick_on_all_of_mini_with_all_methods() -> None:
    options = Options()
    assert (options.methods, options.task, options.preset, options.judge) == (
        ("all",),
        "axbench",
        "quick",
        "likelihood",
    )
    made = make(fake())
    assert made.protocol.concepts == 0
    assert len(made.task.concepts()) >= 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"preset": "standart"}, "did you mean 'standard'"),
        ({"preset": "quick", "strength": "norms"}, "did you mean 'norm'"),
        ({"preset": "quick", "compat": "axbensh"}, "axbench"),
    ],
)
def test_an_unknown_protocol_name_names_the_valid_one(words: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        protocol(**words)


# Names of methods


EVERYTHING = {
    "none",
    "random",
    "shuffled",
    "prompt",
    "prompt-engineered",
    "diffmean",
    "lat",
    "pca",
    "probe",
    "prompt+diffmean",
}


def test_all_holds_the_controls_the_prompts_and_a_combination() -> None:
    found = select(["all"])
    assert len(found) == len(set(found))
    assert set(found) >= EVERYTHING


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["diffmean"], ["diffmean"]),
        (["none,diffmean", "prompt"], ["none", "diffmean", "prompt"]),
        (["prompt", "none"], ["prompt", "none"]),  # the order asked for
        (["none", "none", "none,none"], ["none"]),
        ([" none , prompt "], ["none", "prompt"]),
        (["dif*n"], ["diffmean"]),
        (["pc[a]", "l?t"], ["pca", "lat"]),
        (["none,prompt*,!prompt*"], ["none"]),
        (["lat+pca"], ["lat+pca"]),
        (["diffmean+prompt", "prompt+diffmean"], ["diffmean+prompt", "prompt+diffmean"]),
        (["none", "lat+pca", "-lat+pca"], ["none"]),
        (["none", "-none", "none"], ["none"]),  # words act in their order
    ],
)
def test_words_choose_methods(wanted: list[str], expected: list[str]) -> None:
    assert select(wanted) == expected


def test_combinations_are_a_family_and_a_family_without_use_says_so() -> None:
    assert select(["combination"]) == [name for name in select(["all"]) if "+" in name]
    with pytest.raises(UsageError, match="no method of surface detector gives a steering"):
        select(["detector"])


def test_globs_reach_combinations_and_can_be_narrowed() -> None:
    prompts = [name for name in select(["all"]) if name.startswith("prompt")]
    assert "prompt+diffmean" in prompts
    assert select(["prompt*"]) == prompts
    assert select(["prompt*", "-prompt-engineered"]) == [name for name in prompts if name != "prompt-engineered"]


@pytest.mark.parametrize("mark", ["-", "!"])
def test_exclusions_alone_start_from_all(mark: str) -> None:
    without = select([f"{mark}diffmean,{mark}prompt*"])
    gone = {name for name in select(["all"]) if name == "diffmean" or name.startswith("prompt")}
    assert set(without) == set(select(["all"])) - gone
    assert select(["all", f"{mark}diffmean"]) == [name for name in select(["all"]) if name != "diffmean"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["difmean"], "unknown method 'difmean': did you mean 'diffmean'"),
        (["prompt+difmean"], "did you mean 'diffmean'"),
        (["all,-difmean"], "did you mean 'diffmean'"),
        (["zzzz"], "known: .*diffmean.*none"),
        (["x*"], "no method matches 'x\\*'"),
        (["none,-none"], "no method is left"),
        (["-all"], "no method is left"),
        ([""], "no method is left"),
        (["prompt+"], "one of its parts has no name"),
        (["cast()"], "one of its parts has no name"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_with_the_nearest_one(wanted: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        select(wanted)


# Fields and values


@dataclass(frozen=True)
class Fields:
    layer: int | float = 0.5
    count: int = 1
    rate: float = 0.1
    on: bool = True
    mode: Literal["a", "b"] = "a"
    either: Literal["auto"] | int = "auto"
    layers: tuple[int, ...] = (1,)
    maybe: tuple[int, ...] | None = None
    text: str = ""


def built(monkeypatch: pytest.MonkeyPatch, **params: Any) -> Fields:
    registry.discover("judge")
    monkeypatch.setitem(registry._tables["judge"], "fields", Fields)
    made: Fields = registry.build("judge", "fields", params)
    return made


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("layer", "12", 12),
        ("layer", "-1", -1),
        ("layer", "0.25", 0.25),
        ("layer", "1e-3", 0.001),
        ("count", "7", 7),
        ("rate", "7", 7.0),
        ("on", "false", False),
        ("on", "True", True),
        ("mode", "b", "b"),
        ("either", "auto", "auto"),
        ("either", "12", 12),
        ("layers", "1,2,3", (1, 2, 3)),
        ("maybe", "4,5", (4, 5)),
        ("text", "12", "12"),
        # Already typed, as from TOML or a run.json
        ("layer", 3, 3),
        ("layer", 0.5, 0.5),
        ("rate", 2, 2.0),
        ("mode", "a", "a"),
        ("layers", [4, 5], (4, 5)),
        ("on", False, False),
    ],
)
def test_a_value_becomes_what_its_field_is_annotated_with(
    monkeypatch: pytest.MonkeyPatch, field: str, text: Any, value: Any
) -> None:
    found = getattr(built(monkeypatch, **{field: text}), field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("layer", "middle"),
        ("layer", ""),
        ("count", "1.5"),
        ("count", 1.5),
        ("count", True),  # TOML's true is no count
        ("on", "yes"),
        ("on", "1"),
        ("mode", "c"),
        ("mode", 3),
        ("layers", "1,x"),
        ("layers", ["1", "x"]),
        ("rate", None),
        ("rate", "nan"),  # no run.json can hold them: better refused than found out when all is generated
        ("rate", "inf"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place(
    monkeypatch: pytest.MonkeyPatch, field: str, text: Any
) -> None:
    with pytest.raises(UsageError, match=f"fields.{field} = "):
        built(monkeypatch, **{field: text})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"diffmean.layr": "3"}, "method 'diffmean' has no field 'layr': did you mean 'layer'"),
        ({"difmean.layer": "3"}, "'difmean' is not part of this run: did you mean 'diffmean'"),
        ({"pca.layer": "3"}, "'pca' is not part of this run"),
        ({"diffmean.layer": "three"}, "layer = 'three' is not an index, a depth from 0 to 1, a span a:b, or select"),
        ({"likelihood.word": "3"}, "judge 'likelihood' has no field 'word': did you mean 'words'"),
        ({"axbench.dat": "mini"}, "task 'axbench' has no field 'dat': did you mean 'data'"),
        ({"layer": "3"}, "write name.field=value"),
        ({".layer": "3"}, "write name.field=value"),
        ({"diffmean.": "3"}, "write name.field=value"),
    ],
)
def test_an_unknown_owner_field_or_value_is_refused_with_the_nearest(params: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(fake(["diffmean", "none"], params=params))


def test_parameters_reach_methods_combinations_tasks_and_judges() -> None:
    params = {"diffmean.layer": "2", "axbench.data": "mini", "likelihood.words": "16"}
    made = make(fake(["diffmean", "prompt+diffmean"], params=params))
    assert made.methods[0].params() == {"layer": 2}
    assert made.specs[0].method_params == {"layer": 2}
    assert made.specs[1].method_params == {"prompt": {}, "diffmean": {"layer": 2}}
    assert made.specs[0].judge_params["words"] == 16
    assert made.specs[0].task_params == {}  # mini is the default


# Identity


SPEC = RunSpec("diffmean", "axbench", "m", "likelihood", protocol("quick"), weights="w", data="d")
CHANGES: dict[str, Any] = {
    "method": "pca",
    "task": "other",
    "model": "n",
    "judge": "openai:x",
    "protocol": protocol("standard"),
    "method_params": {"layer": 3},
    "task_params": {"data": "mini"},
    "judge_params": {"words": 3},
    "prompter": "openai:x",
    "backend": "vllm",
    "dtype": "float32",
    "weights": "v",
    "data": "e",
}
RULES: dict[str, Any] = {
    "preset": "paper",
    "coefficients": (0.2,),
    "select": 1,
    "test": 1,
    "sampling": Sampling(33),
    "budget": Budget(1, 2, 3, 4),
    "strength": "max-act",
    "compat": "axbench",
    "seed": 1,
    "concepts": 3,
    "answers": 2,
    "fits": 2,
}
OWN = {"method", "method_params", "prompter"}
"""What may differ between the rows of one table."""


def test_every_field_of_the_identity_is_listed_here() -> None:
    assert set(CHANGES) == {f.name for f in dataclasses.fields(RunSpec)}
    assert set(RULES) == {f.name for f in dataclasses.fields(Protocol)}


@pytest.mark.parametrize("name", CHANGES)
def test_the_id_changes_with_every_field_and_the_group_with_all_but_the_methods(name: str) -> None:
    other = dataclasses.replace(SPEC, **{name: CHANGES[name]})
    assert other.id != SPEC.id
    assert (other.group == SPEC.group) == (name in OWN)


@pytest.mark.parametrize("name", RULES)
def test_the_id_and_the_group_change_with_every_rule_of_the_protocol(name: str) -> None:
    other = dataclasses.replace(SPEC, protocol=dataclasses.replace(SPEC.protocol, **{name: RULES[name]}))
    assert other.id != SPEC.id
    assert other.group != SPEC.group


def test_the_id_does_not_change_otherwise() -> None:
    one, two = make(fake(["diffmean", "none"])), make(fake(["none", "pca", "diffmean"]))
    assert one.specs[0].id == two.specs[2].id  # not with the methods beside it
    assert make(fake(["diffmean"], prompter="openai:x")).specs[0].id == one.specs[0].id  # it writes no prompts
    assert make(fake(["diffmean"], params={"diffmean.layer": "0.5"})).specs[0].id == one.specs[0].id  # the default
    assert make(fake(["diffmean"], data="mini")).specs[0].id == one.specs[0].id  # nor with a task's default said
    ids = {spec.id for spec in (*one.specs, *two.specs)}
    assert len(ids) == 3


def test_options_change_the_id() -> None:
    base = make(fake(["prompt-engineered"])).specs[0].id
    options: list[dict[str, Any]] = [
        {"seed": 1},
        {"limit": 2},
        {"preset": "standard"},
        {"strength": "max-act"},
        {"compat": "axbench"},
        {"prompter": "openai:x"},
        {"judge": "openai:x"},
        {"params": {"likelihood.words": "16"}},
        {"params": {"prompt-engineered.tokens": "16"}},
    ]
    ids = [make(fake(["prompt-engineered"], **o)).specs[0].id for o in options]
    assert len({base, *ids}) == len(options) + 1


# Replay


def ids(options: Options) -> list[str]:
    return [spec.id for spec in make(options).specs]


def replayed(path: Path) -> list[str]:
    return ids(Options(**from_file(path)))


@pytest.mark.slow
def test_a_run_json_replays_to_the_same_ids(tmp_path: Path) -> None:
    words = ["run", "--backend", "fake", "-m", "none,diffmean,prompt+diffmean", "-n", "2", "--seed", "3", "--json"]
    done = bench(*words, "--strength", "max-act", "-p", "diffmean.layer=1")
    assert done.exit_code == 0, done.stderr
    for run in json.loads(done.stdout)["runs"]:
        path = Path(run["path"])
        data = json.loads(path.read_text("utf-8"))
        assert replayed(path) == [data["id"]]
    again = bench("run", "--config", str(path), "--json")
    assert again.exit_code == 0, again.stderr
    assert [(r["method"], r["status"]) for r in json.loads(again.stdout)["runs"]] == [("prompt+diffmean", "cached")]
    seeded = bench("run", "--config", str(path), "--seed", "4", "--dry-run", "--json")  # flags stand above the file
    assert json.loads(seeded.stdout)["runs"][0]["id"] != data["id"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("-m", "diffmean", "--compat", "axbench", "--preset", "paper"),
        ("-m", "lat", "-p", "lat.orient=false", "-p", "lat.layer=-1", "--data", "mini", "--preset", "standard"),
        ("-m", "prompt-engineered", "-p", "prompt-engineered.tokens=16", "-p", "likelihood.words=16"),
        ("-m", "diffmean", "--coefficients", "0,0.1,-0.3", "--set", "protocol.sampling.max_new_tokens=8"),
    ],
    ids=" ".join,
)
def test_every_setting_survives_a_replay(words: tuple[str, ...]) -> None:
    done = bench("run", "--backend", "fake", "-n", "1", "--json", *words)
    assert done.exit_code == 0, done.stderr
    path = Path(json.loads(done.stdout)["runs"][0]["path"])
    assert replayed(path) == [json.loads(path.read_text("utf-8"))["id"]]


@dataclass
class Even(Judge):
    """Rates everything 1: a third party's judge, far faster than calibrating one on a real model."""

    name = "even"

    def fingerprint(self) -> Mapping[str, Any]:
        return {}

    def rate(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        yield from enumerate([Verdict(1.0)] * len(items))


@pytest.mark.slow
def test_a_run_on_a_model_of_ones_own_replays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's name does not say where it lies, nor a hub model's name who owns it."""
    from bench.backends import tiny

    registry.discover("judge")
    monkeypatch.setitem(registry._tables["judge"], "even", Even)
    model = tiny.build(tmp_path / "some" / "my-model").path
    done = bench(
        *("run", "--model", str(model), "-m", "none", "-n", "1", "--judge", "even"), "--dtype", "float32", "--json"
    )
    assert done.exit_code == 0, done.stderr
    path = json.loads(done.stdout)["runs"][0]["path"]
    again = bench("run", "--config", path, "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["runs"][0]["status"] == "cached"


def test_toml_says_what_flags_say(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'methods = ["diffmean", "prompt+lat"]\nbackend = "fake"\npreset = "standard"\nseed = 5\nlimit = 2\n'
        "[params.diffmean]\nlayer = 2\n[params.lat]\norient = false\n[params.likelihood]\nwords = 16\n"
    )
    params = {"diffmean.layer": "2", "lat.orient": "false", "likelihood.words": "16"}
    flags = fake(["diffmean", "prompt+lat"], preset="standard", seed=5, limit=2, params=params)
    assert replayed(path) == ids(flags)
    path.write_text('methods = "none"\nbackend = "fake"\n')
    assert replayed(path) == ids(fake(["none"]))


def test_the_sweep_is_set_by_flags_and_by_toml_alike(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'methods = ["diffmean"]\nbackend = "fake"\ncoefficients = [0, 0.1, -0.3]\n'
        "[params.protocol]\nselect = 8\n[params.protocol.sampling]\nmax_new_tokens = 12\n"
    )
    words = ("--coefficients", "0,0.1,-0.3", "--set", "protocol.select=8", "-p", "protocol.sampling.max_new_tokens=12")
    said = bench("run", "--backend", "fake", "-m", "diffmean", "--dry-run", "--json", *words)
    assert said.exit_code == 0, said.stderr
    plan = make(Options(**from_file(path)))
    assert [run["id"] for run in json.loads(said.stdout)["runs"]] == [spec.id for spec in plan.specs]
    usual = protocol("quick")
    assert plan.protocol == dataclasses.replace(
        usual, coefficients=(0.0, 0.1, -0.3), select=8, sampling=Sampling(12), budget=usual.budget
    )
    assert plan.specs[0].id not in ids(fake(["diffmean"]))


def test_prompts_get_as_many_trials_as_the_coefficients_that_are_set() -> None:
    given = fake(["prompt"], coefficients=(0.1, 0.2, 0.3, 0.4, 0.5))
    assert make(given).protocol.budget.trials == 5
    told = dataclasses.replace(given, params={"protocol.budget.trials": 2})
    assert make(told).protocol.budget.trials == 2


def test_a_run_whose_sweep_was_set_stays_out_of_the_checked_results() -> None:
    plan = make(fake(["diffmean"], preset="standard", params={"protocol.select": 8}))
    assert "its protocol is not the preset's (select)" in results.refusals(plan.specs[0], plan.asked)
    plain = make(fake(["diffmean"], preset="standard"))
    assert not [why for why in results.refusals(plain.specs[0], plain.asked) if "protocol" in why]


@pytest.mark.slow
def test_every_coefficient_that_is_set_is_tried_and_none_else() -> None:
    done = bench("run", "--backend", "fake", "-m", "diffmean", "-n", "1", "--coefficients", "0,0.1,-0.3", "--json")
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(Path(json.loads(done.stdout)["runs"][0]["path"]).read_text("utf-8"))["concepts"].values()
    assert [trial["coefficient"] for trial in found["select"]] == [0.0, 0.1, -0.3]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "presett = 'quick'", "unknown setting 'presett': did you mean 'preset'"),
        ("a.toml", "preset = ", "is not a configuration: Invalid value"),
        ("a.json", "{", "is not a run that can be made again"),
        ("a.json", "{}", "is not a run that can be made again"),
        ("a.json", "[]", "is not a run that can be made again"),
        ("a.json", '{"spec": []}', "is not a run that can be made again"),
        ("a.toml", "[params]\n'diffmean.layer' = 2", "params"),
        ("a.toml", "methods = 3", "methods"),
        ("a.toml", "seed = 'zero'", "seed"),
        ("a.toml", "limit = 'two'", "limit"),
        ("a.toml", "limit = -1", "limit"),
        ("a.toml", "preset = 3", "preset"),
        ("a.toml", "coefficients = [0.1, 0.1]", "give each once"),
        ("a.toml", "coefficients = ['much']", "coefficients"),
        ("a.toml", "[params.protocol]\nselct = 3", "protocol has no field 'selct': did you mean 'select'"),
        ("a.toml", "[params.protocol]\nseed = 3", "protocol.seed has a flag: --seed"),
        ("a.toml", "[params.protocol]\nconcepts = 3", "protocol.concepts has a flag: --limit"),
        ("a.toml", "[params.protocol]\ntest = 0", "protocol.test = 0: at least 1"),
        ("a.toml", "[params.protocol]\nselect = 1.5", "protocol.select = 1.5 is not a whole number"),
        ("a.toml", "[params.protocol]\nsampling = 3", "give one of sampling.max_new_tokens"),
        ("a.toml", "[params.protocol.select]\nn = 3", "protocol.select has no fields"),
        ("a.toml", "[params.protocol.sampling]\ntemperature = -1", "at least 0"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        make(Options(**{"backend": "fake", "methods": ("diffmean",)} | from_file(tmp_path / name)))


def test_a_configuration_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml cannot be read"):
        from_file(tmp_path / "nowhere.toml")


# Cost


def run_and_plan(*words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what --dry-run says, the run.json of each method afterwards)."""
    planned = bench("run", "--backend", "fake", *words, "--dry-run", "--json")
    assert planned.exit_code == 0, planned.stderr
    done = bench("run", "--backend", "fake", *words, "--json")
    assert done.exit_code == 0, done.stderr
    runs = json.loads(done.stdout)["runs"]
    return json.loads(planned.stdout), {r["method"]: json.loads(Path(r["path"]).read_text("utf-8")) for r in runs}


@pytest.mark.slow
def test_a_dry_run_says_what_the_run_then_generates(tmp_path: Path) -> None:
    planned, runs = run_and_plan("-m", "none,diffmean,prompt", "-n", "3")
    for row in planned["runs"]:
        counts = runs[row["method"]]["counts"]
        assert row["generations"] == counts["generations"] == counts["generated_now"]
        assert row["tokens"] >= counts["tokens"]
        assert row["tokens"] == counts["tokens"]  # the fake backend writes to the limit
        assert row["ratings"] == 3 * counts["generations"]
        assert row["fits"] == 3
        assert not row["cached"]
    for name in ("fits", "generations", "tokens", "ratings"):
        assert planned["total"][name] == sum(row[name] for row in planned["runs"])
    assert planned["runs"][1]["generations"] == 3 * (3 * 2 + 3)
    assert planned["results"] == str(tmp_path / "results")


@pytest.mark.slow
@pytest.mark.parametrize(("task", "each"), [("axbench-attack", 2), ("axbench-suppress", 3)])
def test_a_dry_run_counts_what_a_task_has_rated(task: str, each: int) -> None:
    """An attack's axes are kinds of question, not ratings of one answer."""
    planned, _ = run_and_plan("-m", "none", "--task", task, "-n", "1")
    assert planned["runs"][0]["ratings"] == each * planned["runs"][0]["generations"]


@pytest.mark.slow
def test_a_dry_run_writes_nothing_and_afterwards_says_that_nothing_is_left(tmp_path: Path) -> None:
    words = ["run", "--backend", "fake", "-m", "none,prompt", "-n", "2"]
    assert bench(*words, "--dry-run").exit_code == 0
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "cache").exists()
    assert bench(*words).exit_code == 0
    again = json.loads(bench(*words, "--dry-run", "--json").stdout)
    assert [row["cached"] for row in again["runs"]] == [True, True]
    assert set(again["total"].values()) == {0}
    assert again["eta_seconds"] == 0


@pytest.mark.slow
def test_the_plan_is_an_upper_bound_for_every_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything asked of the model counts, the drafts that a prompter writes too."""
    asked: list[int] = []
    generate = FakeBackend.generate

    def counted(self: FakeBackend, requests: Sequence[Request]) -> Any:
        asked.extend(r.sampling.max_new_tokens for r in requests)
        return generate(self, requests)

    monkeypatch.setattr(FakeBackend, "generate", counted)
    for name in ("prompt-engineered", "prompt+diffmean", "lat+pca", "prompt+none"):
        asked.clear()
        planned, _ = run_and_plan("-m", name, "-n", "2", "--seed", "9")
        assert len(asked) <= planned["total"]["generations"], name
        assert sum(asked) <= planned["total"]["tokens"], name


# What is known before anything is loaded or priced


def test_a_plan_says_of_each_method_whether_it_can_run() -> None:
    plan = make(fake(["diffmean", "reps", "bow", "answer-only"], task="axbench"))
    found = dict(zip([made.name for made in plan.methods], plan.lacks, strict=True))
    assert found["diffmean"] == ""
    assert "cannot train" in found["reps"]  # the fake engine holds no model
    assert found["bow"] == "it gives no steering, which task axbench needs"
    assert "rates given options" in found["answer-only"]


@pytest.mark.parametrize(
    ("method", "params", "reason"),
    [
        ("diffmean", {"diffmean.layer": 99}, "layer 99 does not exist: the model has layers 0 to 29"),
        ("lora", {"lora.layers": (0.2, 40)}, "layer 40 does not exist"),
        ("prompt+caa", {"caa.layer": "25:35"}, "layer 35 does not exist"),
        ("shuffled(reps)", {"reps.layer": -31}, "layer -31 does not exist"),
    ],
)
@pytest.mark.model
def test_layers_are_held_against_the_models_configuration(
    default_model: Model, method: str, params: dict[str, Any], reason: str
) -> None:
    found = make(Options(methods=(method, "none"), model=str(default_model.path), params=params))
    assert reason in found.lacks[0]
    assert found.lacks[1] == ""


def test_what_cannot_run_is_not_priced_and_a_run_of_nothing_else_is_an_error() -> None:
    words = ["run", "--backend", "fake", "--dry-run", "--json"]
    some = json.loads(CliRunner().invoke(main, [*words, "-m", "diffmean,reps"]).stdout)
    one, two = some["runs"]
    assert (one["status"], one["reason"], one["generations"] > 0) == ("todo", "", True)
    assert two["status"] == "unsupported"
    assert "cannot train" in two["reason"]
    assert not any(two[name] for name in ("fits", "generations", "tokens", "ratings", "train_tokens"))
    assert some["total"]["fits"] == one["fits"]
    for extra in ([], ["--dry-run"]):
        nothing = CliRunner().invoke(main, ["run", "--backend", "fake", *extra, "-m", "reps,bow"])
        assert nothing.exit_code == 2
        assert "no method of this run can be made" in nothing.stderr


def test_compat_is_priced_as_it_runs() -> None:
    """ReFT-r1 trains on both sides there, three times over; LoRA has one setting."""
    rules = {mode: protocol("paper", compat=mode) for mode in ("", "axbench")}
    task = {mode: build("task", "axbench", {}, protocol=rules[mode]) for mode in rules}
    spent = {
        (name, mode): spend(build_method(name, {}).under(mode), rules[mode], task[mode])
        for name in ("reft-r1", "lora")
        for mode in rules
    }
    concepts = len(task[""].concepts())
    assert spent["reft-r1", ""].train_rows == 3 * 72 * 3 * concepts  # with three seeds
    assert spent["reft-r1", "axbench"].train_rows == 144 * 3 * concepts
    assert spent["lora", "axbench"].generations == (5 + 5) * concepts


def test_a_disk_that_is_full_is_told_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.run import support

    class Full(NamedTuple):
        free: int

    monkeypatch.setattr(support.shutil, "disk_usage", lambda path: Full(1 << 20))
    done = CliRunner().invoke(main, ["run", "--backend", "fake", "-n", "2", "-m", "none"])
    assert done.exit_code == 1
    assert "1 MiB free" in done.stderr
    assert not list(tmp_path.rglob("run.json"))
