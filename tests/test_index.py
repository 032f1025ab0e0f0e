"""The index of a folder of rows: with it, and with any other in its place, the store keeps what it promises without it.

Everything here runs with an index after every few rows (`often`), which otherwise only large stores have.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from store_cases import made_once

from bench.core import claims, rows, store
from bench.core.index import NAME, Index, named
from bench.core.rows import Rows


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "UNSAVED", 1)
    monkeypatch.setattr(rows, "FRESH", 3)


def filled(folder: Path, rows: dict[str, Any]) -> Path:
    """A file of rows that has an index, and its path."""
    before = set(folder.glob("*.jsonl"))
    made = Rows(folder)
    for key, row in rows.items():
        made.put(key, row)
    made.close()
    assert (folder / NAME).is_file()
    return next(path for path in folder.glob("*.jsonl") if path not in before)


def content(folder: Path) -> dict[str, Any]:
    """What a new reader finds under the keys that the tests use."""
    read = Rows(folder)
    found = {key: read.get(key) for key in map(str, range(40)) if key in read}
    assert len(read) == len(found)
    assert sorted(map(repr, read.values())) == sorted(map(repr, found.values()))
    return found


ROWS: dict[str, Any] = {str(i): {"text": f"größe {i}\n", "value": i / 3, "none": None} for i in range(20)}


@pytest.mark.usefixtures("often")
def test_an_indexed_file_is_not_read_through_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, ROWS)
    read: list[bytes] = []
    key_of = rows._key
    monkeypatch.setattr(rows, "_key", lambda line: read.append(line) or key_of(line))
    assert content(tmp_path) == ROWS
    assert read == []
    more = filled(tmp_path, {"30": 30})
    (tmp_path / NAME).unlink()
    assert content(tmp_path) == ROWS | {"30": 30}
    assert len(read) == 21
    assert (tmp_path / NAME).is_file()  # made anew
    with more.open("ab") as file:
        file.write(rows._sealed("31", None))
    read.clear()
    assert content(tmp_path) == ROWS | {"30": 30, "31": None}
    assert len(read) == 1


def test_values_stay_on_the_disk(tmp_path: Path) -> None:
    made = Rows(tmp_path)
    for i in range(3000):
        made.put(str(i), "word " * 1000)
    made.close()
    tracemalloc.start()
    try:
        read = Rows(tmp_path)
        assert all(read.get(str(i)) == "word " * 1000 for i in range(3000))
        assert tracemalloc.get_traced_memory()[1] < 3e6  # of 15
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("often")
def test_any_sequence_of_writers_reads_as_it_does_without_an_index(tmp_path: Path) -> None:
    """Writers that put, look and end in any order, beside a dictionary that does the same."""
    for seed in range(25):
        rng, folder = random.Random(seed), tmp_path / str(seed)
        last: dict[str, Any] = {}
        opened: dict[int, Rows] = {}
        for step in range(60):
            who = rng.randrange(3)
            if who not in opened:
                opened[who] = Rows(folder)
            key, act = str(rng.randrange(12)), rng.random()
            if act < 0.6:
                opened[who].put(key, step)
                last[key] = step
                assert opened[who].get(key) == step
            elif act < 0.8:
                before = opened[who].get(key)
                opened[who].refresh()
                assert before is None or opened[who].get(key) == before  # a row that may have been used stays
            else:
                opened.pop(who).close()
        for one in opened.values():
            one.close()
        with_index = content(folder)
        if (folder / NAME).exists():
            (folder / NAME).unlink()
        assert content(folder) == with_index
        assert with_index.keys() == last.keys()


@pytest.mark.usefixtures("often")
def test_a_row_damaged_after_it_was_indexed_is_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = filled(tmp_path, ROWS)
    whole = path.read_bytes()
    for place in random.Random(1).sample(range(len(whole)), 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        read = Rows(tmp_path)
        found = {key: read.get(key) for key in ROWS if key in read}
        assert found.items() <= ROWS.items()
        assert len(found) >= len(ROWS) - (2 if whole[place] == ord("\n") else 1)
        path.write_bytes(whole)
        (tmp_path / NAME).unlink()
        assert content(tmp_path) == ROWS
    said = capsys.readouterr().err.splitlines()
    assert said == [f"bench: {path}: damaged rows: 1; they are left out and made anew"]


@pytest.mark.usefixtures("often")
def test_damage_found_once_is_told_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path, ROWS)
    path.write_bytes(path.read_bytes().replace(b"gr\\u00f6\\u00dfe 7", b"gr\\u00f6\\u00dfe 8"))
    (tmp_path / NAME).unlink()
    for _ in range(2):
        monkeypatch.setattr(rows, "TOLD", set())
        assert content(tmp_path).keys() == ROWS.keys() - {"7"}
        assert "damaged rows: 1" in capsys.readouterr().err


@pytest.mark.usefixtures("often")
def test_a_damaged_index_is_no_index(tmp_path: Path) -> None:
    filled(tmp_path, ROWS)
    whole = (tmp_path / NAME).read_bytes()
    for place in random.Random(0).sample(range(len(whole)), 150):
        (tmp_path / NAME).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert content(tmp_path) == ROWS
    for cut in random.Random(0).sample(range(len(whole)), 50):
        (tmp_path / NAME).write_bytes(whole[:cut])
        assert content(tmp_path) == ROWS


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda path, other: path.unlink(),
        lambda path, other: path.write_bytes(path.read_bytes()[:300]),
        lambda path, other: path.write_bytes(b""),
        lambda path, other: path.write_bytes(other),
        lambda path, other: path.write_bytes(other + path.read_bytes()),
        lambda path, other: path.rename(path.with_name("1-1.jsonl")),
    ],
)
def test_an_index_of_other_files_gives_nothing_that_is_not_there(
    tmp_path: Path, spoil: Callable[[Path, bytes], None]
) -> None:
    filled(tmp_path, {key: ROWS[key] for key in list(ROWS)[:10]})
    path = filled(tmp_path, ROWS)
    other = filled(tmp_path / "other", {"33": 1, "3": 2}).read_bytes()
    running = Rows(tmp_path)
    spoil(path, other)
    with_index = {key: running.get(key) for key in (*ROWS, "33") if key in running}
    running.refresh()
    read = Rows(tmp_path)
    found = {key: read.get(key) for key in (*ROWS, "33") if key in read}
    (tmp_path / NAME).unlink(missing_ok=True)
    assert found == content(tmp_path)
    assert all(row in (ROWS.get(key), {"33": 1, "3": 2}.get(key)) for key, row in with_index.items())


@pytest.mark.usefixtures("often")
def test_what_was_read_is_at_hand_when_its_folder_is_deleted(tmp_path: Path) -> None:
    filled(tmp_path / "rows", ROWS)
    read = Rows(tmp_path / "rows")
    assert "1" in read
    shutil.rmtree(tmp_path / "rows")
    assert read.get("3") == ROWS["3"]
    read.put("30", 1)
    read.close()
    assert content(tmp_path / "rows") == {"30": 1}


@pytest.mark.usefixtures("often")
def test_a_folder_that_takes_no_index_is_read_without_one(tmp_path: Path) -> None:
    path = filled(tmp_path, ROWS)
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()
    for _ in range(2):
        assert content(tmp_path) == ROWS
    assert sorted(os.listdir(tmp_path)) == [NAME, path.name]


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_process_killed_while_it_writes_the_index_loses_nothing(tmp_path: Path, call: str) -> None:
    filled(tmp_path, {"0": "old", "1": 1})
    pid = os.fork()
    if pid == 0:
        made = Rows(tmp_path)
        for key, row in ROWS.items():
            made.put(key, row)

        def die(*args: Any, **kwargs: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(store if call == "write" else os, "write_all" if call == "write" else call, die)
        made.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert content(tmp_path) == ROWS
    assert content(tmp_path) == ROWS
    assert [name for name in os.listdir(tmp_path) if name.endswith(".part")] == []


@pytest.mark.parametrize("killed", [0, 2])
def test_processes_share_an_indexed_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int) -> None:
    """As without an index each row is made once."""
    monkeypatch.setattr(rows, "UNSAVED", 50)
    monkeypatch.setattr(rows, "FRESH", 64)
    made_once(tmp_path, 900, killed, closes=True)


def test_names_are_asked_about_when_their_turn_comes(tmp_path: Path) -> None:
    """Twice or so each, however many portions there are: in every round, a million would be asked about hundreds of
    times."""
    done: set[str] = set()
    asked: list[int] = []

    def missing(names: Sequence[str]) -> list[str]:
        asked.append(len(names))
        return [name for name in names if name not in done]

    names = [str(i) for i in range(5000)]
    handed = [0]
    portions: Iterator[list[str]] = claims.share(claims.Claims(tmp_path), names, missing, least=16)
    for mine in portions:
        handed.append(len(mine))
        done.update(mine)
    assert (sum(handed), done) == (5000, set(names))
    assert sum(asked) <= 2 * len(names)


def test_an_index_finds_what_was_put_in_it_and_nothing_else() -> None:
    def order(place: Any) -> Any:
        return place

    index, expected = Index(), {}
    rng = random.Random(3)
    for _ in range(12):
        rows = {named(str(rng.randrange(3000))): (rng.randrange(3), rng.randrange(10**9), 7) for _ in range(400)}
        for name, place in rows.items():
            expected[name] = max(place, expected.get(name, place))
        index = index.merged(rows, order)
    assert dict(index.items()) == expected
    assert all(index.find(name) == place for name, place in expected.items())
    assert not [i for i in range(3000, 4000) if index.find(named(str(i)))]
