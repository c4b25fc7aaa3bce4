"""The search file: its form, checked, and the points that its trials stand for.

The form of a search file: a sweep whose axes are searched instead of spanned.

name: resnet8-search
model: models/resnet8.keras
data: {npz: cifar10.npz}
strategy: fsx
axes:
  weight_bit: {low: 2, high: 8}             # a range; also step and log
  weight_per_channel: [true, false]         # or choices, as in a sweep
  calibration: [quantized]
objectives: [accuracy, size_bytes]          # each in its natural direction; default: what decides, and the size
constraints: {accuracy_delta: {min: -0.01}} # any metric of the record, min or max
trials: 40                                  # and / or minutes
minutes: null
sampler: tpe                                # tpe, nsga2, random
batch: 1                                    # trials asked for at once; they may run in parallel
screen: null                                # evaluation images that decide whether a trial is worth all
start: [{weight_bit: 8}]                    # points tried first
seed: 0                                     # settings as in a sweep
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from vqkit import digest
from vqkit.errors import SweepError, not_allowed
from vqkit.sweeps.document import parse, plain_mapping, read_mapping
from vqkit.sweeps.spec import LABEL, SETTINGS, MetricBound, Point, SettingsSpec, Sweep
from vqkit.tables import Measure

NOT_IN_DIGEST = ("trials", "minutes")

# Number of every record -> whether more of it is better.
MORE_IS_BETTER = {
    "sqnr_output_db": True,
    "sqnr_min_db": True,
    "size_bytes": False,
    "bit_operations": False,
    "quantized_tensors": True,
    "float_tensors": False,
}


class Range(BaseModel):
    """Numbers between two, both included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float
    high: float
    step: float | None = Field(default=None, gt=0)
    log: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a positive low and no step")
        return self

    @property
    def whole(self) -> bool:
        """Whether the axis takes whole numbers."""
        parts = (self.low, self.high, *(() if self.step is None else (self.step,)))
        return all(float(p).is_integer() for p in parts)


class SearchSpec(SettingsSpec):
    """The form of a search file; the module's docstring shows one."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    model: str
    data: JsonValue
    strategy: str = "pof2s"
    axes: dict[str, list[JsonValue] | Range]
    objectives: list[str] = Field(default=["accuracy", "size_bytes"], min_length=1)
    constraints: dict[str, MetricBound] = Field(default_factory=dict)
    trials: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    sampler: Literal["tpe", "nsga2", "random"] = "tpe"
    batch: int = Field(default=1, ge=1)
    screen: int | None = Field(default=None, ge=1)
    start: list[dict[str, JsonValue]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _parts_fit(self) -> SearchSpec:
        if not self.axes:
            raise ValueError("axes: there is none, so there is nothing to search")
        for axis, values in self.axes.items():
            if axis == LABEL or values == []:
                raise ValueError(f"axes: {axis!r} " + ("holds no value" if values == [] else "is not an axis"))
        # What metrics of the user's own are called is known when they are loaded.
        for where, names in self.named if self.metrics is None else ():
            _check_names(where, [n.rpartition("/")[2] for n in names], better_of(_named(names)), ValueError)
        if self.trials is None and self.minutes is None:
            raise ValueError("a search needs 'trials' or 'minutes'")
        for point in self.start:
            self._check_start(point)
        return self

    @property
    def named(self) -> tuple[tuple[str, list[str]], ...]:
        """Where numbers of a record are named, and which."""
        return ("objectives", self.objectives), ("constraints", list(self.constraints))

    def _check_start(self, point: Mapping[str, Any]) -> None:
        for axis, value in point.items():
            if axis not in self.axes:
                raise ValueError(not_allowed("start", axis, self.axes, what="axis"))
            values = self.axes[axis]
            inside = (
                isinstance(value, int | float) and values.low <= value <= values.high
                if isinstance(values, Range)
                else any(text(value) == text(v) for v in values)
            )
            if not inside:
                raise ValueError(f"start: {axis!r} cannot be {value!r}")


def _named(names: Iterable[str]) -> list[Measure]:
    """Metrics that have a name here; they are not loaded for those of every search."""
    if set(names) <= set(better_of([Measure()])):
        return [Measure()]
    from vqkit.evaluation.metrics import NAMED

    return [m.measure for m in NAMED.values()]


def better_of(metrics: Iterable[Measure]) -> dict[str, bool]:
    """Number of a record -> whether more of it is better.

    Args:
        metrics: what runs are judged by.
    """
    told = {m.name: m.sign > 0 for m in metrics}
    return {**told, **{f"{name}_delta": up for name, up in told.items()}, **MORE_IS_BETTER}


def _check_names(where: str, names: Iterable[str], known: Iterable[str], error: type[Exception]) -> None:
    allowed = list(known)
    for name in names:
        if name not in allowed:
            raise error(not_allowed(where, name, allowed, what="metric"))


@dataclass(frozen=True)
class Search:
    """A checked search and the place its relative paths start from.

    Attributes:
        spec: the file's content.
        base_dir: folder of the file.
        source: the file's name, for messages.
        metrics: what runs may be judged by, see `judged`; the first one decides.
    """

    spec: SearchSpec
    base_dir: Path
    source: str
    metrics: tuple[Measure, ...] = (Measure(),)

    def judged(self, metrics: Sequence[Measure]) -> Search:
        """The same search by the metrics of its model and data; by default the first one and the size are sought.

        Args:
            metrics: the deciding one first.

        Raises:
            SweepError: an objective or a constraint names none of them, or nobody said which direction of an objective
                is better.
        """
        spec = self.spec
        if "objectives" not in spec.model_fields_set:
            spec = spec.model_copy(update={"objectives": [metrics[0].name, "size_bytes"]})
        found = replace(self, spec=spec, metrics=tuple(metrics))
        for where, names in spec.named:
            _check_names(f"{self.source} /{where}", names, found.better, SweepError)
        for metric in metrics:
            if not metric.better and {metric.name, f"{metric.name}_delta"} & set(spec.objectives):
                raise SweepError(f"{self.source} /objectives: {metric.name}: state whether higher or lower is better")
        return found

    @property
    def better(self) -> dict[str, bool]:
        """Number of a record -> whether more of it is better."""
        return better_of(self.metrics)

    @classmethod
    def load(cls, path: str | Path) -> Search:
        """Read a search file.

        Raises:
            SweepError: with file, JSON pointer, what was given, what is allowed.
        """
        path = Path(path)
        return cls.from_dict({LABEL: path.stem, **read_mapping(path)}, base_dir=path.parent, source=path.name)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], *, base_dir: str | Path = ".", source: str = "search") -> Search:
        """A search from plain JSON.

        Raises:
            SweepError: as `load`.
        """
        return cls(
            parse(SearchSpec, plain_mapping(value, source), source, SweepError),
            Path(base_dir).absolute(),
            source,
        )

    @property
    def name(self) -> str:
        """Name of the search and of its folder."""
        return self.spec.name

    @property
    def digest(self) -> str:
        """Digest of all that decides which trial comes next; the budget does not."""
        plain = self.spec.model_dump(mode="json")
        return digest.of_json({k: v for k, v in plain.items() if k not in NOT_IN_DIGEST})

    def sweep(self, points: list[Point]) -> Sweep:
        """The sweep that runs some points of the search."""
        s = self.spec
        settings = {name: getattr(s, name) for name in SETTINGS}
        value = {
            "name": s.name,
            "model": s.model,
            "data": s.data,
            "strategy": s.strategy,
            **settings,
            "mode": "list",
            "variants": points,
        }
        return Sweep.from_dict(value, base_dir=self.base_dir, source=self.source)


def text(value: Any) -> str:
    """A choice as the text by which the sampler knows it."""
    return digest.canonical_json(value)


def point_of(spec: SearchSpec, params: Mapping[str, Any]) -> Point:
    """The sweep point of a trial's parameters.

    Args:
        spec: the search.
        params: axis -> number, or the text of a choice.
    """
    found: Point = {}
    for axis, values in spec.axes.items():
        given = params[axis]
        if isinstance(values, Range):
            found[axis] = int(given) if values.whole else float(given)
        else:
            found[axis] = json.loads(given)
    return found


def params_of(spec: SearchSpec, point: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's parameters from a sweep point; inverse of `point_of`."""
    return {k: v if isinstance(spec.axes[k], Range) else text(v) for k, v in point.items()}
