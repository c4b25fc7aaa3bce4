"""Every file of a real small sweep, spoiled in every way, before every use of the folder.

Which files there are is read from the folder, so a new one is covered by itself. One rule judges all: what a use says
is what it says of the whole folder, or it names the file; nothing is raised but an error of vqkit's own, and the other
runs are still there. What lies in the cache is computed again, with the same numbers.

    python -m tests.system.robustness.spoiled [PART]

prints a line for each outcome that is neither, and a row for each use.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.damage import DAMAGES, flipped

Damage = Callable[[Path], None]
CACHE, LOCK = "cache", ".lock"
TOLD, SAME, BAD = "told", "recomputed", "bad"
SECONDS = 60
# What changes from one call to the next, and with the number of calls.
_PASSING = re.compile(r"\d+(\.\d+)? (s|ms|min)\b|0x[0-9a-f]+|[0-9a-f]{32}|vqkit-\w+|src='data:[^']*'")


@dataclass
class Folder:
    """A folder of runs that is spoiled and mended over and over.

    Attributes:
        root: `runs`, beside model and data.
        a, b: keys of two finished runs; `a` is the one that is spoiled.
        failed: key of a failed run.
    """

    root: Path
    a: str = ""
    b: str = ""
    failed: str = ""
    whole: dict[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> Path:
        """A copy of the whole folder."""
        return self.root.with_name("whole")

    def mend(self) -> None:
        """Make the folder as it was."""
        shutil.rmtree(self.root)
        shutil.copytree(self.kept, self.root, symlinks=True)

    def files(self) -> list[str]:
        """The files of the folder; of files that every run has, those of `a` and of the failed run."""
        others = {key for key in os.listdir(self.kept / "variants") if key not in (self.a, self.failed)}
        found = [f.relative_to(self.kept) for f in sorted(self.kept.rglob("*")) if f.is_file() and f.stat().st_size]
        one_of_each: dict[object, Path] = {}
        for file in found:
            # Locks hold nothing, and the store's copies of files, as the pictures, differ in their names alone.
            alike = (file.parts[0], file.suffix if file.suffix == ".png" else file.name)
            own = str(file) if file.parts[0] in ("variants", CACHE) and file.suffix != ".png" else alike
            if file.name != LOCK and not others & {*file.parts}:
                one_of_each.setdefault(own, file)
        return [str(f) for f in one_of_each.values()]


def made(folder: Path) -> Folder:
    """A sweep of three variants, one of which fails, run as the command line runs it; with all kinds of caches."""
    import keras

    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 2))
    y = keras.layers.Conv2D(4, 3, activation="relu", name="c")(x)
    keras.Model(x, keras.layers.Dense(3, name="d")(keras.layers.Flatten()(y))).save(folder / "net.keras")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(24, 8, 8, 2)).astype("float32")
    np.savez(folder / "data.npz", x_calib=images, x_eval=images, y_eval=rng.integers(0, 3, 24))
    (folder / "judge.py").write_text(
        "import json, os\n\n\ndef judge(y_true, y_pred):\n"
        "    told = os.path.join(os.environ.get('VQKIT_RUN_DIR', ''), 'record.json')\n"
        "    if 'the failing one' in (open(told).read() if os.path.exists(told) else ''):\n"
        "        raise RuntimeError('no figure of this one')\n"
        "    return float((y_pred.argmax(-1) == y_true).mean())\n"
    )
    sweep = {
        "name": "small",
        "model": "net.keras",
        "data": {"npz": "data.npz"},
        "mode": "list",
        "strategy": "fsx",
        "calibration": "float",
        "metrics": ["accuracy", "judge.py:judge"],
        "variants": [{"weight_bit": 8}, {"weight_bit": 4}, {"weight_bit": 3, "name": "the failing one"}],
    }
    from vqkit.files import write_json

    write_json(folder / "small.json", sweep)
    found = Folder(folder / "runs")
    code, told = ran("sweep", str(folder / "small.json"), "--runs", str(found.root), "-j", "1")
    assert code == 1, told
    by_name = {r.name: r for r in _store(found).records()}
    assert by_name["the failing one"].error, told
    found.failed = by_name.pop("the failing one").key
    found.a, found.b = (r.key for r in by_name.values())
    _computed(found)
    shutil.copytree(found.root, found.kept, symlinks=True)
    for use in USES:
        found.whole[use] = said(found, use)
        found.mend()
    for use in USES:
        again = said(found, use)
        assert again == found.whole[use], f"{use}: {_difference(found.whole[use], again)}"
        found.mend()
    return found


def _store(folder: Folder) -> Any:
    from vqkit.runs.store import Store

    return Store.at(folder.root)


class TooLongError(BaseException):
    """A use waits for something that does not come."""


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise `TooLongError` where something takes longer."""

    def ring(*_: Any) -> None:
        raise TooLongError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def ran(*words: str) -> tuple[int, str]:
    """A command in this process: exit code, and what it printed."""
    import typer

    from vqkit.cli import app
    from vqkit.cli.application import _guarded

    code = []

    def command() -> None:
        try:
            code.append(app(list(words), standalone_mode=False) or 0)
        except typer.Exit as e:
            code.append(e.exit_code)

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        refused = _guarded(command, False)
    return refused or code[0], out.getvalue()


def said(folder: Folder, use: str) -> str:
    """What a use says, with the log of the caches, without what passes."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger("vqkit").addHandler(handler)
    try:
        with at_most(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = USES[use](folder)
    finally:
        logging.getLogger("vqkit").removeHandler(handler)
    text = found + log.getvalue()
    return _PASSING.sub("", text.replace("&#x27;", "'"))


def _command(*words: str) -> Callable[[Folder], str]:
    def use(folder: Folder) -> str:
        given = {"A": folder.a, "B": folder.b}
        code, told = ran(*(given.get(w, w) for w in words), "--runs", str(folder.root))
        assert code in (0, 1, 2, 3), told
        return f"{code}\n{told}"

    return use


def _report(folder: Folder) -> str:
    from vqkit.comparison.report import conclude

    return conclude(folder.root, "small") + (_store(folder).sweep_dir("small") / "report.html").read_text("utf-8")


def _flips(folder: Folder) -> str:
    from vqkit.comparison.samples import differing_html, worst_html

    runs = [_store(folder).variant_dir(key) for key in (folder.a, folder.b)]
    return differing_html(runs[0], runs[1], None) + worst_html(runs[0], None)


def _store_address(folder: Folder) -> str:
    """The folder's mlflow store under another name each time: mlflow keeps a connection to a database open."""
    base = folder.root / "mlflow.db"
    place = Path(tempfile.mkdtemp(dir=folder.root.parent, prefix="vqkit-")) / base.name
    if os.path.lexists(base):
        os.rename(base, place)
    return f"sqlite:///{place}"


def _track(folder: Folder) -> str:
    code, told = ran("track", "--runs", str(folder.root), "--tracking-uri", _store_address(folder))
    assert code in (0, 2, 3), told
    return told


def _tracked(folder: Folder) -> str:
    """The store as a source of runs, with the files of one."""
    import vqkit as vq

    return vq.compare(_store_address(folder)).html()


def _next_command(folder: Folder) -> str:
    words = ("sweep", str(folder.root.parent / "small.json"), "--runs", str(folder.root), "-j", "1", "--no-track")
    code, told = ran(*words)
    assert code in (0, 1, 2, 3), told
    # What ran again is told, and is no other result.
    return "\n".join([str(code), *([told] if code in (2, 3) else []), *_numbers(folder)])


def _numbers(folder: Folder) -> list[str]:
    from vqkit.errors import RecordError

    try:
        records = _store(folder).records("small")
    except RecordError as e:
        return [str(e)]
    return [
        f"{r.name} {r.status} {k} {v}" for r in records for k, v in r.metrics.items() if not k.startswith("seconds")
    ]


def _widgets(folder: Folder) -> str:
    import vqkit as vq

    return vq.compare(folder.root).html() + vq.watch("small", folder.root).html()


def _computed(folder: Folder) -> str:
    """What the caches are for, in a bench and an engine of their own."""
    import vqkit as vq
    from vqkit.search.engine import Engine
    from vqkit.search.layer_sensitivity import sensitivity
    from vqkit.sweeps.settings import Settings

    beside = folder.root.parent
    net = vq.load_model(beside / "net.keras")
    data = vq.load_data({"npz": str(beside / "data.npz")})
    cache = folder.root / "cache"
    bench = vq.Bench(net, data, cache=cache)
    strategies = [
        vq.build_strategy("fsx", {"weight_bit": 5}),
        vq.build_strategy("fsx", {"include_block_reconstruction": True, "block_iterations": 10}),
    ]
    lines = []
    for strategy in strategies:
        quantized = bench.quantize(strategy, calibration="float")
        lines.append(f"{bench.evaluate(quantized).metrics} {quantized.encodings}")
    engine = Engine(net, data, settings=Settings(calibration="float"), cache=cache)
    lines.append(str(engine.measure(strategies[0]).numbers))
    lines.append(str(sensitivity(net, data, "fsx", bits=(4,), engine=engine)))
    return "\n".join(lines)


COMPUTED: dict[str, Callable[[Folder], str]] = {"computed": _computed}
READ: dict[str, Callable[[Folder], str]] = {
    "compare": _command("compare"),
    "compare a sweep": _command("compare", "--sweep", "small"),
    "difference": _command("compare", "A", "B"),
    "explain": _command("compare", "A", "B", "--explain"),
    "patch": _command("compare", "A", "B", "--patch"),
    "report": _report,
    "flips": _flips,
    "track": _track,
    "widgets": _widgets,
    "next command": _next_command,
}
TRACKED: dict[str, Callable[[Folder], str]] = {"track": _track, "tracked": _tracked}
USES = {**COMPUTED, **READ, **TRACKED}
# These list all runs.
LISTS = ("compare", "compare a sweep", "report", "widgets")


def uses_of(file: str) -> dict[str, Callable[[Folder], str]]:
    """What reads a file."""
    parts = {CACHE: COMPUTED, "mlflow.db": TRACKED, "mlartifacts": TRACKED, "variants": READ, "sweeps": READ}
    return parts.get(Path(file).parts[0], USES)


def damages_of(file: str) -> tuple[Damage, ...]:
    """How a file can be spoiled so that it shows: a flipped bit of what has no digest is another number."""
    seen = file.startswith(f"{CACHE}/") or file.endswith((".npz", "record.json"))
    return tuple(d for d in DAMAGES if seen or d is not flipped)


@dataclass(frozen=True)
class Outcome:
    """What came of one use of a folder with one spoiled file."""

    file: str
    damage: str
    use: str
    verdict: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.file} {self.damage}: {self.use}: {self.verdict} {self.why}"


def spoiled(folder: Folder, file: str, damage: Damage) -> Iterator[Outcome]:
    """Spoil one file, and try every use of it."""
    for use in uses_of(file):
        damage(folder.root / file)
        try:
            yield Outcome(file, damage.__name__, use, *_judged(folder, file, use))
        finally:
            folder.mend()


def _judged(folder: Folder, file: str, use: str) -> tuple[str, str]:
    from vqkit.errors import VqkitError

    try:
        text = said(folder, use)
    except VqkitError as e:
        text = str(e)
        if use in LISTS and file.startswith("variants/"):
            return BAD, f"one file of one run takes all down: {text}"
    except (Exception, TooLongError) as e:
        return BAD, f"raw {type(e).__name__}: {e}"[:1500]
    if "Traceback" in text and "Traceback" not in folder.whole[use]:
        return BAD, text[-1500:]
    if use in LISTS and file.startswith("variants/") and folder.b not in text and folder.b in folder.whole[use]:
        return BAD, "the other runs are gone"
    if text == folder.whole[use]:
        return SAME, ""
    named = "".join(text.split())
    if Path(file).name in named:
        return TOLD, ""
    return BAD, _difference(folder.whole[use], text)


def _difference(before: str, after: str) -> str:
    import difflib

    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return "not told:\n" + "\n".join(line[:200] for line in lines)[:1500]


def outcomes(folder: Folder, part: str = "", *, ways: int = len(DAMAGES)) -> Iterator[Outcome]:
    """What came of each use of each spoiled file.

    Args:
        folder: from `made`.
        part: only files whose place in the folder begins so.
        ways: of spoiling each file, beginning with another one for each; all by default.
    """
    for at, file in enumerate(f for f in folder.files() if f.startswith(part)):
        known = damages_of(file)
        for k in range(min(ways, len(known))):
            yield from spoiled(folder, file, known[(ways * at + k) % len(known)])


def counted(folder: Folder, part: str = "", *, ways: int = len(DAMAGES)) -> list[dict[str, Any]]:
    """A row for each use: how often it was tried, and what came of it; `odd` is what is bad.

    Args:
        folder, part, ways: as of `outcomes`.
    """
    rows: dict[str, dict[str, Any]] = {}
    for outcome in outcomes(folder, part, ways=ways):
        empty = {"what": f"spoiled file: {outcome.use}", "tried": 0, TOLD: 0, SAME: 0, BAD: 0, "odd": []}
        row = rows.setdefault(outcome.use, empty)
        row["tried"] += 1
        row[outcome.verdict] += 1
        if outcome.verdict == BAD:
            row["odd"].append(str(outcome))
            print(outcome, file=sys.stderr, flush=True)
    return list(rows.values())


def main(*parts: str) -> int:
    """Print a row for each use; 1 where something is bad."""
    with tempfile.TemporaryDirectory(prefix="vqkit-spoiled-") as place:
        found = counted(made(Path(place).resolve()), *parts)
    for row in found:
        print({k: v for k, v in row.items() if k != "odd"})
    return int(any(row[BAD] for row in found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
