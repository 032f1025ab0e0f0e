"""The store, held to its invariant: a reader never sees half a thing, and what was put comes back equal.

A killed writer may leave a torn line or a folder under a temporary name; neither may be read, nor may it
spoil what is written after it.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from safetensors.numpy import save_file
from store_cases import made_once

from bench.core.claims import Claims
from bench.core.content import Array, digest, stored
from bench.core.deltas import LowRankDelta
from bench.core.edits import Gate, Span
from bench.core.errors import BenchError, UsageError
from bench.core.kinds import Add
from bench.core.paths import cache_root
from bench.core.rows import Rows
from bench.core.steering import Prompt, Steering
from bench.core.store import Artefacts, load_value, save_value, write_json, write_over, write_set, write_whole
from bench.interchange.files import load, save


def written(folder: Path, name: str, *lines: str, torn: bytes = b"") -> Path:
    """A writer's file with whole `lines` and a `torn` end."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes("".join(line + "\n" for line in lines).encode() + torn)
    return path


def line(key: str, row: Any) -> str:
    return json.dumps({"key": key, "row": row}, ensure_ascii=False)


def hidden(folder: Path) -> list[str]:
    """What a reader should never find: files and folders under temporary names."""
    return [p.name for p in folder.rglob("*") if p.name.startswith(".")]


# Rows


def test_a_row_is_in_the_file_when_put_returns(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows")
    assert len(rows) == 0
    assert not (tmp_path / "rows").exists()  # a reader alone leaves no trace
    rows.put("a", {"text": "é\nline two", "n": 1.5})
    other = Rows(tmp_path / "rows")  # while the first is still open
    assert "a" in other
    assert other.get("a") == {"text": "é\nline two", "n": 1.5}
    assert "b" not in other
    assert other.get("b") is None


def test_two_writers_files_are_read_as_a_union(tmp_path: Path) -> None:
    one, two = Rows(tmp_path), Rows(tmp_path)
    one.put("a", 1)
    two.put("b", 2)
    one.put("c", 3)
    one.close()
    two.close()
    assert len(list(tmp_path.glob("*.jsonl"))) == 2  # neither writes into the other's file
    read = Rows(tmp_path)
    assert {key: read.get(key) for key in "abc"} == {"a": 1, "b": 2, "c": 3}
    assert len(read) == 3


def test_the_last_row_of_a_key_wins_within_a_file_and_across_files(tmp_path: Path) -> None:
    written(tmp_path, "100-1.jsonl", line("a", "old"), line("b", "old"), line("a", "newer"))
    assert Rows(tmp_path).get("a") == "newer"
    again = Rows(tmp_path)
    again.put("a", "newest")
    assert again.get("a") == "newest"
    again.close()
    read = Rows(tmp_path)
    assert (read.get("a"), read.get("b"), len(read)) == ("newest", "old", 2)


@pytest.mark.parametrize("row", ["plain text", "größe – 東京 🚢", {"text": "🚢" * 3}])
def test_a_last_line_torn_at_any_byte_is_skipped_and_the_rest_is_kept(tmp_path: Path, row: Any) -> None:
    """Also inside a multi-byte character, and right before the newline, where the line is whole."""
    last = line("last", row).encode()
    for cut in range(len(last) + 1):
        folder = tmp_path / str(cut)
        written(folder, "100-1.jsonl", line("first", 1), torn=last[:cut])
        read = Rows(folder)
        assert read.get("first") == 1
        if cut == len(last):
            assert read.get("last") == row
        else:
            assert "last" not in read, f"a line cut to {cut} of {len(last)} bytes was read"


def test_a_row_put_after_a_torn_line_is_never_glued_onto_it(tmp_path: Path) -> None:
    torn = written(tmp_path, "100-1.jsonl", line("a", 1), torn=line("b", 2).encode()[:-3])
    before = torn.read_bytes()
    rows = Rows(tmp_path)
    rows.put("b", "again")
    rows.put("c", 3)
    rows.close()
    assert torn.read_bytes() == before
    read = Rows(tmp_path)
    assert {key: read.get(key) for key in "abc"} == {"a": 1, "b": "again", "c": 3}


def test_rows_can_be_put_again_after_close(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    rows.put("a", 1)
    rows.close()
    rows.close()
    rows.put("b", 2)
    rows.close()
    assert len(Rows(tmp_path)) == 2


def test_a_row_that_is_not_json_leaves_nothing_of_itself(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    rows.put("a", 1)
    for bad in (float("nan"), {"x": {1, 2}}, object()):
        with pytest.raises((ValueError, TypeError)):
            rows.put("bad", bad)
        assert "bad" not in rows
    rows.put("b", 2)
    rows.close()
    read = Rows(tmp_path)
    assert (read.get("a"), read.get("b"), "bad" in read) == (1, 2, False)


texts = st.text(max_size=20)
"""Any characters but lone surrogates, which have their own test; line separators among them."""
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.tuples(texts, values), max_size=5), max_size=3))
def test_whatever_is_put_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, writers: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    expected: dict[str, Any] = {}
    for part in writers:
        rows = Rows(folder)
        for key, value in part:
            rows.put(key, value)
            expected[key] = value
        rows.close()
    read = Rows(folder)
    assert {key: read.get(key) for key in expected} == expected
    assert len(read) == len(expected)


@pytest.mark.parametrize("code", [0x85, 0x2028, 0x2029, 0x1C, 0x0B, 0x0C, 0x0D, 0xFEFF])
def test_a_generated_line_separator_does_not_split_a_row(tmp_path: Path, code: int) -> None:
    """A model may write any character; one that str.splitlines breaks at must not lose the row."""
    rows = Rows(tmp_path)
    rows.put("a", {"text": f"one{chr(code)}two"})
    rows.close()
    assert Rows(tmp_path).get("a") == {"text": f"one{chr(code)}two"}


def test_half_of_a_surrogate_pair_in_a_reply_is_kept(tmp_path: Path) -> None:
    """An API's reply cut in the middle of an emoji's escape is a lone surrogate: JSON can hold it."""
    rows = Rows(tmp_path)
    rows.put("a", {"text": "\ud83d"})
    rows.close()
    assert Rows(tmp_path).get("a") == {"text": "\ud83d"}


def kept(folder: Path, rows: int = 3) -> tuple[Path, dict[str, Any]]:
    """A file of rows as `Rows` writes it, and what it holds."""
    store, expected = Rows(folder), {}
    for i in range(rows):
        expected[f"key {i}"] = {"text": f"größe {i}\n", "value": i / 3, "none": None, "deep": [i, [True]]}
        store.put(f"key {i}", expected[f"key {i}"])
    store.close()
    return next(folder.glob("*.jsonl")), expected


def test_a_flipped_bit_loses_its_row_and_invents_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of any bit, one after the other; a newline that goes takes the row after it along."""
    path, expected = kept(tmp_path, 2)
    whole = path.read_bytes()
    ends = {i for i, byte in enumerate(whole) if byte == ord("\n")}
    bits = list(itertools.product(range(len(whole)), range(8)))
    for place, bit in random.Random(0).sample(bits, 500):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        read = Rows(tmp_path)
        found = {key: read.get(key) for key in expected if key in read}
        assert found.items() <= expected.items()
        assert len(read) == len(found)  # nor under another key
        assert len(found) >= len(expected) - (2 if place in ends else 1)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"bench: {path}: damaged rows: 1; they are left out and made anew"]  # once a command


def test_a_file_cut_at_any_byte_loses_the_torn_row_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, expected = kept(tmp_path)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        read = Rows(tmp_path)
        assert len(read) == len([n for n in range(3) if cut >= whole.find(b"\n", whole.find(b"key %d" % n))])
        assert all(read.get(key) in (None, row) for key, row in expected.items())
    assert capsys.readouterr().err == ""  # a killed writer is no damage


def test_rows_from_before_checksums_are_read_as_they_stand(tmp_path: Path) -> None:
    written(tmp_path, "100-1.jsonl", line("a", 1), '{"key": {}, "row": 1}', '{"key": "b"}', "[" * 10**5, '"key row"')
    read = Rows(tmp_path)
    assert (read.get("a"), len(read)) == (1, 1)


def test_a_clock_that_goes_back_reorders_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for clock, row in ((5 * 10**18, "old"), (10**18, "newer"), (10**18, "newest")):
        monkeypatch.setattr("time.time_ns", lambda clock=clock: clock)
        rows = Rows(tmp_path)
        rows.put("a", row)
        rows.close()
    assert Rows(tmp_path).get("a") == "newest"
    assert len(list(tmp_path.glob("*.jsonl"))) == 3


def test_what_others_put_is_taken_in_and_what_was_used_stays(tmp_path: Path) -> None:
    one, two = Rows(tmp_path), Rows(tmp_path)
    one.put("a", "one's")
    two.put("a", "two's")
    two.put("b", 2)
    one.refresh()
    assert (one.get("a"), one.get("b")) == ("one's", 2)
    two.put("c", 3)
    one.refresh()
    assert one.get("c") == 3


def test_a_row_that_is_being_written_is_read_when_it_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another process's line may be seen in two halves; the second was once read as a damaged line of its own."""
    count = 300
    rows = Rows(tmp_path / "whole")
    for i in range(count):
        rows.put(f"k{i}", i)
    (source,) = (tmp_path / "whole").glob("*.jsonl")
    text = source.read_bytes()
    (tmp_path / "rows").mkdir()
    reader = Rows(tmp_path / "rows")

    def write() -> None:
        with (tmp_path / "rows" / source.name).open("wb", buffering=0) as file:
            for begin in range(0, len(text), 17):
                file.write(text[begin : begin + 17])

    writing = threading.Thread(target=write)
    writing.start()
    while writing.is_alive():
        reader.refresh()
    reader.refresh()
    assert [reader.get(f"k{i}") for i in range(count)] == list(range(count))
    assert "damaged" not in capsys.readouterr().err


def test_a_full_disk_names_the_folder_and_tears_nothing_that_is_read(tmp_path: Path) -> None:
    """A limit on a file's size stands for the disk: a part of a row is written, then nothing."""
    resource = pytest.importorskip("resource")
    rows, before = Rows(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    rows.put("a", 1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, before[1]))
        with pytest.raises(OSError, match="too large") as error:
            rows.put("b", "x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.filename == str(tmp_path)
    assert "b" not in rows
    rows.put("c", 3)  # not glued onto the torn part
    rows.close()
    read = Rows(tmp_path)
    assert (read.get("a"), read.get("c"), len(read)) == (1, 3, 2)


def test_rows_put_after_their_folder_was_deleted_are_kept(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows")
    rows.put("a", 1)
    shutil.rmtree(tmp_path / "rows")
    rows.put("b", 2)
    rows.close()
    assert Rows(tmp_path / "rows").get("b") == 2


# write_json and write_whole


def test_write_json_makes_folders_and_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "run.json"
    write_json(path, {"x": 1, "ö": [None, True]})
    assert json.loads(path.read_text("utf-8")) == {"x": 1, "ö": [None, True]}
    assert path.read_text("utf-8").endswith("\n")
    write_json(path, {"x": 2})
    assert json.loads(path.read_text("utf-8")) == {"x": 2}
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("bad", [{"x": float("nan")}, {"x": float("inf")}, {"x": object()}, {"x": [1, {2}]}])
def test_a_value_that_fails_to_serialise_leaves_the_old_file_and_no_other(tmp_path: Path, bad: Any) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"x": "old"})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"before": ["much"] * 5000} | bad)
    assert json.loads(path.read_text("utf-8")) == {"x": "old"}
    assert os.listdir(tmp_path) == ["run.json"]


def test_an_interrupt_while_writing_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"x": "old"})

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"x": "new"})
    assert json.loads(path.read_text("utf-8")) == {"x": "old"}
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_file_has_the_mode_that_its_user_gives_to_files(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_json(tmp_path / "new", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o666 & ~mask
    (tmp_path / "new").chmod(0o640)
    write_json(tmp_path / "new", 2)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "further").symlink_to(tmp_path / "link")
    write_whole(tmp_path / "further", b"new")
    assert (tmp_path / "further").is_symlink()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(tmp_path / "loop", b"new")
    assert hidden(tmp_path) == []


def test_a_fifo_and_a_device_stay_what_they_are(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(fifo, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    write_whole(Path("/dev/null"), b"gone")
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_part_that_a_killed_process_left_is_used_up(tmp_path: Path) -> None:
    (tmp_path / ".run.json.part").write_text("half of something longer than the whole")
    write_json(tmp_path / "run.json", 1)
    assert os.listdir(tmp_path) == ["run.json"]
    assert (tmp_path / "run.json").read_text() == "1\n"


def test_files_that_belong_together_are_all_new_or_all_old(tmp_path: Path) -> None:
    files = {tmp_path / name: b"new" for name in ("trials.jsonl", "run.json")}
    write_set(dict.fromkeys(files, b"old"))
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_set(files | {tmp_path / "taken" / "..": b"a folder's name"})
    assert {path.read_bytes() for path in files} == {b"old"}
    write_set(files)
    assert {path.read_bytes() for path in files} == {b"new"}

    def broken() -> Iterator[bytes]:
        yield b"a part"
        raise ValueError("no JSON")

    with pytest.raises(ValueError, match="no JSON"):
        write_set(files | {tmp_path / "trials.jsonl": broken()})
    assert {path.read_bytes() for path in files} == {b"new"}
    write_set({tmp_path / "run.json": iter([b"in", b" parts"])})
    assert (tmp_path / "run.json").read_bytes() == b"in parts"
    assert hidden(tmp_path) == []


def test_a_user_s_own_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "vector.safetensors"
    write_over({path: b"one"})
    write_over({path: b"one"})  # the same again
    with pytest.raises(UsageError, match="holds something else"):
        write_over({tmp_path / "beside": b"x", path: b"two"})
    assert os.listdir(tmp_path) == ["vector.safetensors"]
    write_over({path: b"two"}, ours=lambda path: True)
    write_over({path: b"three"}, force=True)
    assert path.read_bytes() == b"three"


# Artefacts


@pytest.mark.parametrize("file", ["fit.txt", "key.json"])
def test_a_damaged_artefact_counts_as_missing_and_is_made_anew(tmp_path: Path, file: str) -> None:
    def write(folder: Path) -> None:
        (folder / "fit.txt").write_text("fitted")

    Artefacts(tmp_path).make("k", {"method": "m"}, write)
    path = tmp_path / "k" / file
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        again = Artefacts(tmp_path)
        if not again.has("k"):
            again.make("k", {"method": "m"}, write)
        assert (tmp_path / "k" / "fit.txt").read_text() == "fitted"
    path.unlink()
    assert not Artefacts(tmp_path).has("k")


def test_folders_of_killed_processes_are_swept_and_live_ones_stay(tmp_path: Path) -> None:
    for name in (".part-a-12345678", ".part-b-12345678", ".part-12345678", ".part-87654321"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".part-12345678", (0, 0))  # of a version that named no claim
    with other_process(tmp_path, ["b"]):
        Artefacts(tmp_path).make("k", {}, lambda folder: None)
        assert sorted(os.listdir(tmp_path)) == [".claims", ".part-87654321", ".part-b-12345678", "k"]
    Artefacts(tmp_path).make("l", {}, lambda folder: None)
    assert sorted(os.listdir(tmp_path)) == [".claims", ".part-87654321", "k", "l"]


# Claims


@contextmanager
def other_process(folder: Path, names: list[str]) -> Iterator[int]:
    """A process that has claimed `names`, and is killed at the end."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        claims = Claims(folder)
        os.write(told, bytes([all(claims.take(name) for name in names)]))
        signal.pause()
        os._exit(1)
    try:
        assert os.read(ready, 1) == b"\x01"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(told)


def test_a_claim_holds_until_its_process_ends_however_that_ends(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    with other_process(tmp_path, ["a"]):
        assert not claims.take("a")
        assert claims.take("b")
    assert claims.take("a")


def test_what_others_have_claimed_comes_last_and_from_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, others = Rows(tmp_path), []
    rows.put("z", 0)
    with other_process(tmp_path, ["a", "b"]) as pid:
        portions = rows.portions(["a", "b", "c", "z"], others.append)
        assert next(portions) == ["c"]
        rows.put("c", 1)
        two = Rows(tmp_path)  # as if the other process had put it
        two.put("a", 2)
        threading.Timer(0.1, os.kill, (pid, signal.SIGKILL)).start()
        assert next(portions) == ["b"]  # its claims ended with it
        assert list(portions) == []  # handed out once: a rating that nobody can give does not come again
    assert (others, rows.get("a")) == ([1, 1], 2)
    assert capsys.readouterr().err.count("another process") == 1


def test_a_quarter_is_handed_out_at_once(tmp_path: Path) -> None:
    rows, sizes = Rows(tmp_path), []
    for mine in rows.portions(map(str, range(2000))):
        sizes.append(len(mine))
        for key in mine:
            rows.put(key, 0)
    assert sizes[:3] == [500, 375, 281]
    assert sum(sizes) == 2000
    assert [len(mine) for mine in Rows(tmp_path / "whole").portions(map(str, range(2000)), whole=True)] == [2000]
    assert [len(mine) for mine in Rows(None).portions(map(str, range(2000)))] == [2000]


@pytest.mark.parametrize("killed", [0, 2])
def test_processes_make_each_row_once(tmp_path: Path, killed: int) -> None:
    made_once(tmp_path, 1500, killed, closes=False)


def test_an_artefact_is_made_once(tmp_path: Path) -> None:
    artefacts, calls = Artefacts(tmp_path / "fits"), []

    def write(folder: Path) -> None:
        calls.append(folder)
        (folder / "fit.txt").write_text("fitted")

    assert not artefacts.has("k")
    one = artefacts.make("k", {"method": "m", "c": (1, 2)}, write)
    two = Artefacts(tmp_path / "fits").make("k", {"method": "m"}, write)
    assert one == two == artefacts.path("k")
    assert len(calls) == 1
    assert calls[0] != one  # written under another name, then renamed
    assert (one / "fit.txt").read_text() == "fitted"
    kept = json.loads((one / "key.json").read_text())
    assert kept | {"files": ["fit.txt"]} == {"method": "m", "c": [1, 2], "files": list(kept["files"])}
    assert artefacts.has("k")
    assert sorted(os.listdir(tmp_path / "fits")) == [".claims", "k"]


@pytest.mark.parametrize("error", [RuntimeError("fit"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_writer_leaves_nothing_and_can_be_repeated(tmp_path: Path, error: BaseException) -> None:
    artefacts = Artefacts(tmp_path / "fits")

    def half(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise error

    with pytest.raises(type(error)):
        artefacts.make("k", {}, half)
    assert not artefacts.has("k")
    assert os.listdir(tmp_path / "fits") == [".claims"]
    artefacts.make("k", {}, lambda folder: None)
    assert os.listdir(tmp_path / "fits" / "k") == ["key.json"]


def test_a_reason_that_is_not_json_leaves_nothing(tmp_path: Path) -> None:
    artefacts = Artefacts(tmp_path)
    with pytest.raises(TypeError):
        artefacts.make("k", object(), lambda folder: None)
    assert os.listdir(tmp_path) == [".claims"]


def test_an_artefact_another_process_finished_first_is_taken(tmp_path: Path) -> None:
    artefacts = Artefacts(tmp_path)

    def slow(folder: Path) -> None:
        Artefacts(tmp_path).make("k", {}, lambda other: (other / "who").write_text("first") and None)
        (folder / "who").write_text("second")

    assert (artefacts.make("k", {}, slow) / "who").read_text() == "first"
    assert sorted(os.listdir(tmp_path)) == [".claims", "k"]


# save_value and load_value


@stored
@dataclass(frozen=True, eq=False)
class Leaf:
    weight: Array
    name: str = ""


@stored
@dataclass(frozen=True, eq=False)
class Tree:
    leaves: tuple[Leaf, ...]
    notes: dict[str, Any]
    inner: Tree | None = None


def test_nested_dataclasses_with_arrays_come_back_equal(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = (
        rng.standard_normal((3, 4)).astype(np.float32),
        rng.standard_normal((2, 3, 4)).transpose(2, 0, 1),  # not contiguous, float64
        np.arange(5, dtype=np.int64),
        np.array([True, False]),
        np.zeros((0, 7), np.float32),
        rng.standard_normal(6).astype(np.float16)[::2],
    )
    tree = Tree(
        tuple(Leaf(array, f"leaf {i} ü") for i, array in enumerate(arrays)),
        {"none": None, "yes": True, "n": 3, "x": 0.1, "deep": {"tuple": (1, ("a", np.float32(2.5)))}},
        inner=Tree((), {}, inner=Tree((Leaf(np.eye(2)),), {})),
    )
    save_value(tmp_path / "v.safetensors", tree)
    again = load_value(tmp_path / "v.safetensors")
    assert type(again) is Tree
    assert digest(again) == digest(tree)
    for one, two in zip(tree.leaves, again.leaves, strict=True):
        assert one.weight.dtype == two.weight.dtype
        assert one.weight.shape == two.weight.shape
        np.testing.assert_array_equal(one.weight, two.weight)
    assert again.notes["deep"]["tuple"] == (1, ("a", 2.5))
    assert again.notes["yes"] is True
    assert again.inner.inner.leaves[0].weight.shape == (2, 2)


def test_a_value_without_arrays_comes_back_equal(tmp_path: Path) -> None:
    save_value(tmp_path / "v.safetensors", Tree((), {"a": (1, 2.5, "x", None, False)}))
    again = load_value(tmp_path / "v.safetensors")
    assert (again.leaves, again.notes, again.inner) == ((), {"a": (1, 2.5, "x", None, False)}, None)


def test_a_scalar_array_keeps_its_shape(tmp_path: Path) -> None:
    """A shape decides the digest, so a 0-d array that came back as [1] would be another content."""
    leaf = Leaf(np.array(3.0, np.float32))
    save_value(tmp_path / "v.safetensors", leaf)
    assert digest(load_value(tmp_path / "v.safetensors")) == digest(leaf)


def test_a_steering_with_every_part_keeps_its_digest(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    gate = Gate(0, rng.standard_normal(8).astype(np.float32), 0.25, center=np.ones(8, np.float32))
    steering = Steering(
        Prompt(system="Be brief.", shots=(("Hi", "Hello."),)),
        (Add(layer=1, value=rng.standard_normal((3, 8)).astype(np.float32), span=Span("prompt", first=3), gate=gate),),
        (LowRankDelta(module="m.x", down=np.ones((2, 8)), up=rng.standard_normal((8, 2)), strength=0.5),),
    )
    save(tmp_path / "s.safetensors", steering)
    again = load(tmp_path / "s.safetensors")
    assert again.digest == steering.digest
    assert again.scaled(0.5).digest == steering.scaled(0.5).digest != steering.digest


@pytest.mark.parametrize("bad", [{1, 2}, object(), b"bytes", Path("x"), Tree((), {"f": len})])
def test_a_value_the_codec_does_not_know_is_refused_before_anything_is_written(tmp_path: Path, bad: Any) -> None:
    with pytest.raises(BenchError, match="cannot keep a"):
        save_value(tmp_path / "v.safetensors", bad)
    assert os.listdir(tmp_path) == []


def holding(path: Path, name: str) -> Path:
    """A file whose header names a type."""
    save_file({"none": np.zeros(1, np.float32)}, path, {"value": json.dumps({"$type": name, "fields": {}})})
    return path


@pytest.mark.parametrize(
    "name", ["os:system", "pathlib:Path", "bench.core.store:write_json", "Path", "BenchError", "Ad"]
)
def test_a_type_that_is_not_stored_is_refused(tmp_path: Path, name: str) -> None:
    """A fit from a stranger's cache must not be able to run a function or build any class by name."""
    with pytest.raises(BenchError, match="is no type that is known here"):
        load_value(holding(tmp_path / "v.safetensors", name))


@pytest.mark.parametrize("name", ["harmful:Steering", "harmful"])
def test_a_file_imports_no_module_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "harmful.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BenchError, match="is no type that is known here"):
        load_value(holding(tmp_path / "v.safetensors", name))
    assert not (tmp_path / "ran").exists()


def test_fields_that_a_type_does_not_have_are_damage(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="is damaged"):
        load_value(holding(tmp_path / "v.safetensors", "Add"))


def test_a_dataclass_that_is_not_stored_is_refused_with_the_way_out(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Mine:
        size: int = 1

    with pytest.raises(BenchError, match=r"cannot keep a Mine: decorate the dataclass with @bench\.stored"):
        save_value(tmp_path / "v.safetensors", Mine())


def test_a_file_of_version_0_1_is_read() -> None:
    """Exported when a type was named with its module: every edit and delta, a gate, a prompt with a shot."""
    steering = load(Path(__file__).parent / "fixtures" / "exported_by_0.1.0.safetensors")
    kinds = [type(part).__name__ for part in (*steering.edits, *steering.deltas)]
    assert kinds == ["Add", "Add", "Project", "Clamp", "LowRank", "LowRankDelta", "DenseDelta", "RotationDelta"]
    assert steering.digest == "3dc4b096577dc04e28152ce7"


def test_a_cache_under_the_old_name_moves_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BENCH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "steerbench").mkdir()
    (tmp_path / "steerbench" / "kept").touch()
    assert cache_root() == tmp_path / "steer-or-prompt"
    assert (cache_root() / "kept").is_file()
    assert capsys.readouterr().err.count("the cache is now") == 1
    (tmp_path / "steerbench").mkdir()  # an older program's, made since: it stays
    assert cache_root() == tmp_path / "steer-or-prompt"
    assert (tmp_path / "steerbench").is_dir()
