"""What is asked of each stranger, and whether the answer is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.strangers_parts.models import Stranger

STEPS = ("load", "plan", "float", "pof2s", "fsx", "16 bit", "save", "fresh load", "onnx", "tflite")
ROOT = Path(__file__).resolve().parents[2]
# Of float32 arithmetic in another order; half precision has 2**-8 of its own.
ROUNDING, HALF_ROUNDING = 1e-4, 3e-2
CLOSE_DB = 35.0
# A runtime must be within the bounds of `cross_check`. With a few dozen values their 99 % forbid a single one
# that a tie moved by two, and a steep function behind the last quantizer makes many units of an output of one
# code; so else each quantized tensor must have this share within one code, and none farther than so many.
AGREEING, FARTHEST = 0.9, 3.0
SIXTEEN = {"weight_bit": 16, "activation_bit": 16, "bias_bit": 16, "input_bit": 16}
LOAD = """
import json, sys
import vqkit, keras, numpy as np
answers = {}
for path, given, wanted in json.loads(sys.stdin.read()):
    try:
        model = keras.models.load_model(path)
        with np.load(given, allow_pickle=True) as f:
            x = [f[k] for k in f.files]
        x = x[0] if len(x) == 1 else x
        got = [np.asarray(t, "float64") for t in keras.tree.flatten(model(x, training=False))]
        with np.load(wanted) as f:
            same = all(np.array_equal(g, f[k], equal_nan=True) for g, k in zip(got, f.files, strict=True))
        answers[path] = "" if same else "other outputs than before it was saved"
    except Exception as e:
        answers[path] = f"{type(e).__name__}: {e}"
print("ANSWERS " + json.dumps(answers))
"""


@dataclass
class Cell:
    """One answer.

    Attributes:
        verdict: "right", "refused" (by one of vqkit's errors), "wrong", or "" where a step before has
            refused.
        words: a figure, the sentence of the refusal, or what is wrong.
    """

    verdict: str
    words: str = ""


@dataclass
class Line:
    """All answers for one stranger.

    Attributes:
        name: of the stranger.
        kind: of the stranger.
        cells: step -> answer.
        difference: largest difference of the float graph from the user's model, relative to the largest
            output.
        own_code: whether Keras cannot load it without the user's own code.
    """

    name: str
    kind: str
    cells: dict[str, Cell] = field(default_factory=dict)
    difference: float | None = None
    own_code: bool = False

    @property
    def wrong(self) -> list[str]:
        """The steps with a wrong answer."""
        return [k for k, c in self.cells.items() if c.verdict == "wrong"]


class _StopError(Exception):
    """The steps that follow cannot be asked."""


def judge(stranger: Stranger, folder: Path) -> Line:
    """Take one stranger through every step but the fresh load, which is asked of many at once.

    Args:
        stranger: which.
        folder: where to write.

    Returns:
        The answers; the saved model and what it gave lie in `folder` for `load_fresh`.
    """
    import keras

    import vqkit

    keras.utils.set_random_seed(zlib.crc32(stranger.name.encode()))
    line = Line(stranger.name, stranger.kind, {s: Cell("") for s in STEPS}, own_code=stranger.own_code)
    try:
        given, x = _ask(line, "load", lambda: (stranger.build(folder), ""))
        model = given
        if isinstance(given, Path):
            model = _ask(line, "load", lambda: _opened(given, x, folder))
        else:
            line.cells["load"] = Cell("right", "live")
        _ask(line, "plan", lambda: (None, f"{len(vqkit.make_plan('pof2s', model).rows)} rows"))
        quantized = _ask(line, "pof2s", lambda: _quantized(model, x, "pof2s"))
        _float(line, model, quantized, x)
        _ask(line, "fsx", lambda: _quantized(model, x, "fsx"), stop=False)
        _ask(line, "16 bit", lambda: _close(model, x, stranger.smooth), stop=False)
        _ask(line, "save", lambda: _saved(quantized, x, folder), stop=False)
        for step, runtime in (("onnx", "onnxruntime"), ("tflite", "litert")):
            _ask(line, step, lambda s=step, r=runtime: _exported(quantized, x, folder, s, r), stop=False)
    except _StopError:
        pass
    return line


def _ask(line: Line, step: str, call: Callable[[], tuple[Any, str]], *, stop: bool = True) -> Any:
    """The first of what the call gives; its words, or why it refused, go into the line."""
    from vqkit import VqkitError
    from vqkit.errors import AuditError

    try:
        result, words = call()
    except AuditError as error:
        line.cells[step] = Cell("wrong", f"audit: {' '.join(str(error).split())}")
    except VqkitError as error:
        line.cells[step] = Cell("refused", " ".join(str(error).split()))
    except WrongError as error:
        line.cells[step] = Cell("wrong", str(error))
    except Exception as error:
        line.cells[step] = Cell("wrong", f"raw {type(error).__name__}: {' '.join(str(error).split())}")
    else:
        line.cells[step] = Cell("right", words)
        return result
    if stop:
        raise _StopError
    return None


class WrongError(Exception):
    """A step gave something else than it must."""


def _opened(path: Path, x: Any, folder: Path) -> tuple[Any, str]:
    import vqkit

    model = vqkit.load_model(path)
    with np.load(folder / "original.npz") as f:
        gone = _difference([np.asarray(f["y"], np.float64)], outputs(model, x)[:1])
    if gone > ROUNDING:
        raise WrongError(f"the file's model computes something else: {gone:.1e} of its output")
    return model, f"{gone:.0e}"


def _quantized(model: Any, x: Any, strategy: Any) -> tuple[Any, str]:
    import vqkit

    quantized = vqkit.quantize(model, strategy, x)
    noise = _db(outputs(model, x), outputs(quantized.model, x))
    return quantized, f"{noise:.1f} dB"


def _float(line: Line, model: Any, quantized: Any, x: Any) -> None:
    def compare() -> tuple[None, str]:
        line.difference = _difference(outputs(model, x), outputs(quantized.float_model, x))
        if line.difference > (HALF_ROUNDING if _half(model) else ROUNDING):
            raise WrongError(f"the float graph differs from the model by {line.difference:.1e} of its output")
        return None, f"{line.difference:.0e}"

    _ask(line, "float", compare, stop=False)


def _close(model: Any, x: Any, smooth: bool) -> tuple[None, str]:
    import vqkit

    strategy = vqkit.Strategy.builtin("fsx").with_kwargs(**SIXTEEN, input_method=0, activation_method=0)
    quantized = vqkit.quantize(model, strategy, x)
    noise = _db(outputs(model, x), outputs(quantized.model, x))
    if smooth and noise < CLOSE_DB and not _half(model):
        raise WrongError(f"{noise:.1f} dB at 16 bits")
    return None, f"{noise:.1f} dB"


def _saved(quantized: Any, x: Any, folder: Path) -> tuple[None, str]:
    path = folder / "quantized.keras"
    quantized.model.save(path)
    first = part(x, _fixed(quantized.model) or 4)
    kept = first.values() if isinstance(first, dict) else first if isinstance(first, list) else [first]
    np.savez(folder / "given.npz", **{f"i{i}": a for i, a in enumerate(kept)})
    _rest(quantized.model)
    got = [np.asarray(t, np.float64) for t in leaves(quantized.model(first, training=False))]
    np.savez(folder / "wanted.npz", **{f"o{i:02}": a for i, a in enumerate(got)})
    return None, f"{path.stat().st_size // 1000} kB"


def _exported(quantized: Any, x: Any, folder: Path, form: str, runtime: str) -> tuple[None, str]:
    import vqkit

    path = folder / f"model.{form}"
    vqkit.export(quantized, path)
    check = vqkit.cross_check(quantized, x, (runtime,), strict=False)
    far = check.table[~check.table.tensor.str.startswith("output")]
    far = far if len(far) else check.table
    far = far[(far.beyond_1 > 1 - AGREEING) | (far.max_codes > FARTHEST)]
    if check.first and len(far):
        raise WrongError(f"departs at {far.iloc[0].tensor}: {check.summary()[0]}")
    return None, f"{check.metrics[f'{runtime}_output_max']:.2g}"


def load_fresh(lines: list[Line], folders: dict[str, Path]) -> None:
    """Load the saved models in a process that has imported vqkit and nothing else of the project.

    Args:
        lines: whose cells "fresh load" are filled.
        folders: name -> where `judge` wrote.
    """
    asked = {
        str(folders[line.name] / "quantized.keras"): line for line in lines if line.cells["save"].verdict == "right"
    }
    given = [[p, str(Path(p).with_name("given.npz")), str(Path(p).with_name("wanted.npz"))] for p in asked]
    if not given:
        return
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            [sys.executable, "-c", LOAD],
            input=json.dumps(given),
            cwd=elsewhere,
            text=True,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
    found = [t for t in done.stdout.splitlines() if t.startswith("ANSWERS ")]
    answers = json.loads(found[-1].removeprefix("ANSWERS ")) if found else {}
    for path, line in asked.items():
        answer = " ".join(answers.get(path, f"the process ended: {done.stderr[-200:]}").split())
        verdict = "refused" if line.own_code else "wrong"
        line.cells["fresh load"] = Cell(verdict, answer) if answer else Cell("right", "equal")


# --- numbers ---


def outputs(model: Any, x: Any) -> list[np.ndarray]:
    """The model's outputs as float64, in batches of the size that it takes."""
    size = _fixed(model)
    _rest(model)
    n = len(leaves(x)[0])
    chunks = [x] if size is None else [part(x, size, i) for i in range(0, n - size + 1, size)]
    many = [[np.asarray(t, np.float64) for t in leaves(model(c, training=False))] for c in chunks]
    return [np.concatenate(parts) for parts in zip(*many, strict=True)]


def _rest(model: Any) -> None:
    """Let stateful layers begin a sequence."""
    for layer in model.layers:
        if getattr(layer, "stateful", False):
            layer.reset_state()


def leaves(nest: Any) -> list[Any]:
    """The tensors or arrays in a nest, in Keras' order."""
    import keras

    return list(keras.tree.flatten(nest))


def part(x: Any, size: int, start: int = 0) -> Any:
    """Some samples of a nest of arrays."""
    import keras

    return keras.tree.map_structure(lambda a: a[start : start + size], x)


def _fixed(model: Any) -> int | None:
    sizes = {t.shape[0] for t in model.inputs} - {None}
    return int(sizes.pop()) if sizes else None


def _half(model: Any) -> bool:
    return any("16" in str(getattr(v, "compute_dtype", "")) for v in model.layers)


def _difference(truth: list[np.ndarray], got: list[np.ndarray]) -> float:
    pairs = list(zip(truth, got, strict=True))
    scale = max((float(np.abs(t).max(initial=0)) for t, _ in pairs), default=0.0) or 1.0
    return max((float(np.abs(t - g).max(initial=0)) for t, g in pairs), default=0.0) / scale


def _db(truth: list[np.ndarray], got: list[np.ndarray]) -> float:
    signal = sum(float((t**2).sum()) for t in truth)
    noise = sum(float(((t - g) ** 2).sum()) for t, g in zip(truth, got, strict=True))
    return float(10 * np.log10(signal / noise)) if signal and noise else np.inf if not noise else -np.inf


def table(lines: list[Line]) -> Iterator[str]:
    """The lines as text: right, refused or wrong in each step, then each sentence once."""
    width = max((len(line.name) for line in lines), default=4)
    yield f"{'stranger':{width}}  " + "  ".join(f"{s:>10}" for s in STEPS)
    for line in lines:
        words = [_shown(line.cells[s]) for s in STEPS]
        yield f"{line.name:{width}}  " + "  ".join(f"{w:>10}" for w in words)
    for verdict in ("refused", "wrong"):
        for line in lines:
            for step, cell in line.cells.items():
                if cell.verdict == verdict:
                    yield f"{verdict}  {line.name} / {step}: {cell.words[:300]}"


def _shown(cell: Cell) -> str:
    return cell.words[:10] if cell.verdict == "right" else cell.verdict.upper() or "-"
