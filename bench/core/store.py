"""What is kept between runs beside rows: artefact folders, values in them, files written whole or not at all.

Invariant: a reader never sees half a thing, nor another than was written: a folder or file under its final name is
complete.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakValueDictionary

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bench.core.claims import Claims, share
from bench.core.content import Array, Weights, plain, stored_types
from bench.core.errors import BenchError, UsageError, suggest
from bench.core.registry import discover

if sys.platform != "win32":
    import fcntl


def write_json(path: Path, value: Any) -> None:
    """Write a whole JSON file or leave the old one."""
    write_whole(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """`value` as a JSON file has it; raises ValueError or TypeError for what JSON cannot hold."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a pair has no UTF-8
        return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def write_whole(path: Path, content: bytes) -> None:
    """Write a whole file, in a folder that is made for it, or leave the old one.

    A link stays, and what it points to is written; into what is no file (`/dev/stdout`, a FIFO) it is written as it is.
    """
    write_set({path: content})


Content = bytes | Iterable[bytes]
"""What a file is to hold, whole or in parts."""


def write_set(files: Mapping[Path, Content]) -> None:
    """Write several files that belong together: all of them, the last one last, or leave every old one.

    OSError names the file that could not be written.
    """
    with ExitStack() as stack:
        parts = [(path, stack.enter_context(_beside(path, content))) for path, content in files.items()]
        for path, (part, target) in parts:
            if part is not None:
                with naming(path):
                    os.replace(part, target)


def write_over(
    files: Mapping[Path, bytes], force: bool = False, ours: Callable[[Path], bool] = lambda path: False
) -> None:
    """As `write_set`, of files whose place a user chose: what is there, is not the same and not `ours` stays.

    Raises UsageError that names it, unless `force`; an empty file and what is no file may be written to.
    """
    for path, content in files.items():
        there = b"" if force or _special(path) or not path.is_file() else path.read_bytes()
        if there and there != content and not ours(path):
            raise UsageError(f"{path} is there and holds something else: name another, or write over it by --force")
    write_set(files)


@contextmanager
def _beside(path: Path, content: Content) -> Iterator[tuple[Path | None, Path]]:
    """`content` on the disk beside the file it is to replace, and that file; nothing of it is left at the end.

    The part has one name and a lock, so that a part of a killed process is written over and not left for good. None
    where `path` is no regular file: then it is written.
    """
    with naming(path):
        if _special(path):
            with path.open("wb", buffering=0) as device:
                _write(device, content)
            yield None, path
            return
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        file = _locked(part)
    try:
        with naming(path):
            file.truncate(0)
            _write(file, content)
            os.fsync(file.fileno())
            if target.exists():
                os.chmod(part, stat.S_IMODE(target.stat().st_mode))
        yield part, target
    finally:
        if _same(file, part):
            part.unlink()
        file.close()


def _special(path: Path) -> bool:
    """Whether a path is a device, a FIFO or a socket, or a name of an open file (`/dev/stdout`)."""
    try:
        kind = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)) or str(path.absolute()).startswith(OPEN)


OPEN = ("/dev/std", "/dev/fd/", "/proc/")


def _locked(part: Path) -> BinaryIO:
    """The file `part`, made or left by a killed process; another writer of it has its turn first."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        file = os.fdopen(os.open(part, flags, 0o666), "r+b", buffering=0)
        if not _lock(file) or _same(file, part):
            return file
        file.close()  # the one before took it to its final name


def _lock(file: BinaryIO) -> bool:
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # a disk without locks: two writers of one file at one time are then not told apart
        return False
    return True


def _same(file: BinaryIO, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except OSError:
        return False


def _write(file: BinaryIO, content: Content) -> None:
    for part in [content] if isinstance(content, bytes) else content:
        write_all(file, part)


def write_all(file: BinaryIO, content: bytes) -> None:
    """All of it, or OSError: an unbuffered file takes a part where the disk is full."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError that says no file, as of a full disk, names `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def folder_in_place(folder: Path, claims: Claims, whole: Callable[[Path], bool]) -> Iterator[Path]:
    """An empty folder that becomes `folder` when the block ends well; where a `whole` one is there by then, that stays.

    Its name is claimed meanwhile, so what has a name that nobody claims is a killed process's, and is swept.
    """
    root, held = folder.parent, claims.holds(folder.name)
    with naming(root):
        root.mkdir(parents=True, exist_ok=True)
        claims.take(folder.name, wait=True)
        _sweep(root, claims)
        part = Path(tempfile.mkdtemp(dir=root, prefix=f"{PART}{folder.name}-"))
    LIVE.add(part)
    try:
        with naming(root):
            yield part
            if not whole(folder):
                shutil.rmtree(folder, ignore_errors=True)  # what is there is damaged
            part.chmod(0o777 & ~_umask())  # mkdtemp's own 0700 would hide it from others
            try:
                part.rename(folder)
            except OSError:
                if not whole(folder):
                    raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        LIVE.discard(part)
        if not held:
            claims.drop([folder.name])


PART = ".part-"
LIVE: set[Path] = set()
"""Folders that this process is filling."""
OLD_PART = 24 * 3600
"""Seconds after which a folder of a version that named no claim is nobody's."""


def _sweep(root: Path, claims: Claims) -> None:
    for part in set(root.glob(f"{PART}*")) - LIVE:
        name = part.name.removeprefix(PART).rpartition("-")[0]
        held = claims.holds(name)
        with suppress(FileNotFoundError):
            if (claims.take(name) and claims.holds(name)) if name else _old(part):
                shutil.rmtree(part, ignore_errors=True)
        if not held:
            claims.drop([name])


def _old(part: Path) -> bool:
    return time.time() - part.stat().st_mtime > OLD_PART


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


class Artefacts:
    """Content-addressed folders: made under a temporary name, then renamed.

    `key.json` holds a digest of every file; a folder whose content is another counts as missing, and is made anew.
    Folders of versions before that hold none and are taken as they stand. `Weights` lie in folders of their own, under
    their digests, however many values have them: `key.json` names those too, and one that is missing is missed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.claims = Claims(root)
        self._weights: dict[str, list[str]] = {}
        """key -> the digests of its weights, of every folder that was found whole."""
        self._loaded: WeakValueDictionary[str, Weights] = WeakValueDictionary()

    def path(self, key: str) -> Path:
        return self.root / key

    def has(self, key: str) -> bool:
        if key not in self._weights:
            found = _whole(self.path(key))
            if found is None:
                return False
            self._weights[key] = found
        elif not (self.path(key) / KEY).is_file():
            return False
        return all(map(self.has, self._weights[key]))

    def portions(self, keys: Iterable[str], others: Callable[[int], None] = lambda made: None) -> Iterator[list[str]]:
        """The `keys` that this process is to make, some at a time (`bench.core.claims.share`)."""
        return share(self.claims, keys, lambda names: [n for n in names if not self.has(n)], others, FEW)

    def make(self, key: str, why: Any, write: Callable[[Path], None], weights: Iterable[Weights] = ()) -> Path:
        """The folder of `key`, written by `write` unless it is there; `why` is kept beside it, and the `weights` that
        `write` only names are written first."""
        final = self.path(key)
        if not self.has(key):
            needed = {one.digest: one for one in weights}
            for name, one in needed.items():
                self.make(name, {"arrays": len(one.arrays)}, partial(_write_weights, one))
            with folder_in_place(final, self.claims, lambda folder: self._by_now(folder.name)) as part:
                write(part)
                files = {path.name: _digest(path) for path in sorted(part.iterdir())}
                write_json(part / KEY, plain(why) | {"files": files} | ({"weights": [*needed]} if needed else {}))
            self._weights.pop(key, None)
        return final

    def _by_now(self, key: str) -> bool:
        """As `has`, whatever this process found before."""
        self._weights.pop(key, None)
        return self.has(key)

    def load(self, key: str, file: str) -> Any:
        """The value in a file of `key`; weights that several values have are one object."""
        return load_value(self.path(key) / file, self._shared)

    def _shared(self, name: str) -> Weights:
        found = self._loaded.get(name)
        if found is None:
            found = self._loaded[name] = load_value(self.path(name) / WEIGHTS)
        return found


KEY = "key.json"
WEIGHTS = "weights.safetensors"
FEW = 16
"""Folders claimed at once: some methods learn many at one go."""


def _whole(folder: Path) -> list[str] | None:
    """The digests of an artefact's weights; None unless every file of it is what was written."""
    try:
        found = json.loads((folder / KEY).read_text("utf-8"))
        same = all(_digest(folder / name) == kept for name, kept in found.get("files", {}).items())
        return list(map(str, found.get("weights", ()))) if same else None
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return None


def _write_weights(weights: Weights, folder: Path) -> None:
    save_value(folder / WEIGHTS, weights)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def save_value(path: Path, value: Any) -> None:
    """Write dataclasses that are `stored`, tuples, JSON scalars and arrays as one `.safetensors` file."""
    path.write_bytes(pack(value))


def pack(value: Any, apart: dict[str, Weights] | None = None) -> bytes:
    """`value` as the bytes of a `.safetensors` file; raises BenchError for what it cannot hold.

    With `apart`, weights are put there by their digests, and the file only names them.
    """
    tensors: dict[str, Array] = {}
    tree = _encode(value, tensors, apart)
    try:
        return save(tensors or {"none": np.zeros(1, np.float32)}, {"value": json.dumps(tree)})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BenchError(f"cannot keep these arrays: {error}") from error


def load_value(path: Path, weights: Callable[[str], Weights] | None = None) -> Any:
    """The inverse of `save_value`. Builds `stored` dataclasses only; a name in a file imports nothing. `weights` gives
    those that the file only names."""
    try:
        with safe_open(path, framework="numpy") as file:
            tree = json.loads(file.metadata()["value"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _decode(tree, tensors, weights or _elsewhere)
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{path} is damaged ({error}); delete its folder and run the same command again") from error
    except BenchError as error:
        raise BenchError(f"{path.name}: {error}") from error


def _elsewhere(name: str) -> Weights:
    raise BenchError(f"it names weights ({name}) that lie beside it among a run's artefacts: load it from there")


def _encode(value: Any, tensors: dict[str, Array], apart: dict[str, Weights] | None) -> Any:
    if apart is not None and isinstance(value, Weights):
        apart[value.digest] = value
        return {"$weights": value.digest}
    if isinstance(value, np.ndarray):
        name = f"t{len(tensors)}"
        tensors[name] = np.ascontiguousarray(value).reshape(value.shape)  # it would make a scalar [1]
        return {"$array": name}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _encode(getattr(value, f.name), tensors, apart) for f in dataclasses.fields(value)}
        if stored_types().get(type(value).__name__) is not type(value):
            raise BenchError(f"cannot keep a {type(value).__name__}: decorate the dataclass with @bench.stored")
        return {"$type": type(value).__name__, "fields": fields}
    if isinstance(value, tuple | list):
        return {"$tuple": [_encode(v, tensors, apart) for v in value]}
    if isinstance(value, dict):
        return {"$dict": {str(k): _encode(v, tensors, apart) for k, v in value.items()}}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise BenchError(f"cannot keep a {type(value).__name__}: use frozen dataclasses, tuples and arrays")


def _decode(tree: Any, tensors: dict[str, Array], weights: Callable[[str], Weights]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "$array" in tree:
        return tensors[tree["$array"]]
    if "$weights" in tree:
        return weights(tree["$weights"])
    if "$tuple" in tree:
        return tuple(_decode(v, tensors, weights) for v in tree["$tuple"])
    if "$dict" in tree:
        return {k: _decode(v, tensors, weights) for k, v in tree["$dict"].items()}
    home, _, name = tree["$type"].rpartition(":")
    if name not in stored_types():
        discover("edit")  # the program's own kinds
    made = stored_types().get(name) if home in ("", OLD_HOME) else None
    if made is None:
        raise BenchError(
            f"it holds a {tree['$type']!r}, which is no type that is known here: {suggest(name, stored_types())} "
            "(a plugin's types need --plugin FILE)"
        )
    return made(**{k: _decode(v, tensors, weights) for k, v in tree["fields"].items()})


OLD_HOME = "bench.steering"
"""Files of version 0.1 name a type with the module it lay in; of those that users have, all lay in this one."""
