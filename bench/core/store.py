"""What is kept between runs: append-only rows, artefact folders, JSON written whole or not at all.

Invariant: a reader never sees half a thing. A killed writer loses at most the line it was writing;
a folder or file under its final name is complete.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bench.core.content import Array, plain, stored_types
from bench.core.errors import BenchError, suggest


def write_json(path: Path, value: Any) -> None:
    """Write a whole JSON file or leave the old one."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    if any("\ud800" <= char <= "\udfff" for char in text):  # half of a pair has no UTF-8
        text = json.dumps(value, indent=1, allow_nan=False)
    write_whole(path, (text + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a whole file, in a folder that is made for it, or leave the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


class Rows:
    """Append-only JSONL in one folder: one file per writer process, read as a union.

    The last row of a key wins; a torn last line is skipped; a row is on its way to the disk when
    `put` returns, so a killed process loses nothing it had reported. Without a folder they stay in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._file: TextIO | None = None
        self._rows: dict[str, Any] = {}
        for path in sorted(folder.glob("*.jsonl")) if folder else ():
            self._rows.update(_lines(path))

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: str) -> Any:
        return self._rows.get(key)

    def values(self) -> list[Any]:
        return list(self._rows.values())

    def put(self, key: str, row: Any) -> None:
        line = json.dumps({"key": key, "row": row}, allow_nan=False)
        if self.folder:
            self._append(self.folder, line)
        self._rows[key] = row

    def _append(self, folder: Path, line: str) -> None:
        if self._file is None:
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{time.time_ns()}-{os.getpid()}.jsonl"
            self._file = (folder / name).open("x", encoding="utf-8")
        self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): it also splits at separators that a model may write inside a text.
    for line in path.read_text("utf-8", errors="replace").split("\n"):
        try:
            record = json.loads(line)
            yield record["key"], record["row"]
        except (ValueError, KeyError, TypeError):
            continue  # the torn last line of a killed writer


def put_in_place(made: Path, folder: Path, whole: Callable[[Path], bool]) -> None:
    """Rename a finished folder, or leave the `whole` one that another process put there first; raises OSError else."""
    try:
        made.rename(folder)
    except OSError:
        if not whole(folder):
            raise


class Artefacts:
    """Content-addressed folders: made under a temporary name, then renamed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        return self.root / key

    def has(self, key: str) -> bool:
        return (self.path(key) / "key.json").is_file()

    def make(self, key: str, why: Any, write: Callable[[Path], None]) -> Path:
        """The folder of `key`, written by `write` unless it is there; `why` is kept beside it."""
        final = self.path(key)
        if self.has(key):
            return final
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self.root, prefix=".part-"))
        try:
            write(temporary)
            write_json(temporary / "key.json", plain(why))
            put_in_place(temporary, final, lambda _: self.has(key))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return final


def save_value(path: Path, value: Any) -> None:
    """Write dataclasses that are `stored`, tuples, JSON scalars and arrays as one `.safetensors` file."""
    path.write_bytes(pack(value))


def pack(value: Any) -> bytes:
    """`value` as the bytes of a `.safetensors` file; raises BenchError for what it cannot hold."""
    tensors: dict[str, Array] = {}
    tree = _encode(value, tensors)
    try:
        return save(tensors or {"none": np.zeros(1, np.float32)}, {"value": json.dumps(tree)})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BenchError(f"cannot keep these arrays: {error}") from error


def load_value(path: Path) -> Any:
    """The inverse of `save_value`. Builds `stored` dataclasses only; a name in a file imports nothing."""
    try:
        with safe_open(path, framework="numpy") as file:
            tree = json.loads(file.metadata()["value"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _decode(tree, tensors)
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{path} is damaged ({error}); delete its folder and run the same command again") from error
    except BenchError as error:
        raise BenchError(f"{path.name}: {error}") from error


def _encode(value: Any, tensors: dict[str, Array]) -> Any:
    if isinstance(value, np.ndarray):
        name = f"t{len(tensors)}"
        tensors[name] = np.ascontiguousarray(value).reshape(value.shape)  # it would make a scalar [1]
        return {"$array": name}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _encode(getattr(value, f.name), tensors) for f in dataclasses.fields(value)}
        if stored_types().get(type(value).__name__) is not type(value):
            raise BenchError(f"cannot keep a {type(value).__name__}: decorate the dataclass with @bench.stored")
        return {"$type": type(value).__name__, "fields": fields}
    if isinstance(value, tuple | list):
        return {"$tuple": [_encode(v, tensors) for v in value]}
    if isinstance(value, dict):
        return {"$dict": {str(k): _encode(v, tensors) for k, v in value.items()}}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise BenchError(f"cannot keep a {type(value).__name__}: use frozen dataclasses, tuples and arrays")


def _decode(tree: Any, tensors: dict[str, Array]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "$array" in tree:
        return tensors[tree["$array"]]
    if "$tuple" in tree:
        return tuple(_decode(v, tensors) for v in tree["$tuple"])
    if "$dict" in tree:
        return {k: _decode(v, tensors) for k, v in tree["$dict"].items()}
    home, _, name = tree["$type"].rpartition(":")
    made = stored_types().get(name) if home in ("", OLD_HOME) else None
    if made is None:
        raise BenchError(
            f"it holds a {tree['$type']!r}, which is no type that is known here: {suggest(name, stored_types())} "
            "(a plugin's types need --plugin FILE)"
        )
    return made(**{k: _decode(v, tensors) for k, v in tree["fields"].items()})


OLD_HOME = "bench.steering"
"""Files of version 0.1 name a type with the module it lay in; of those that users have, all lay in this one."""
