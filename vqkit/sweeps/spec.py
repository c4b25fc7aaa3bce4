"""A sweep file: its form, checked, and the points that it spans.

A sweep: one model, one set of data, a base strategy, and the points around it that are to be tried.

A sweep file is JSON or YAML:

    name: resnet8                      # folder under runs/sweeps; default: the file's name
    model: models/resnet8.keras        # relative to this file; or "quickstart"
    data: {npz: cifar10.npz, x_calib: x_train, x_eval: x_test, y_eval: y_test, n_calib: 200}
    strategy: pof2s                    # built-in name, or a JSON file relative to this file
    mode: grid                         # every combination; "random" draws n of them; "list" takes `variants`
    axes:
      strategy: [pof2s, fsx]           # the base itself,
      weight_bit: [8, 6, 4]            # a keyword of the strategy,
      input_layers: [null, [conv2]]    # (null: as the base has it)
      /quantize_registry_config/input_quantize_config/input_quantizer/quantizer_params/bit_width: [8, 6]
      calibration: [quantized, float]  # or a setting below
    exclude:                           # combinations that match all keys of one entry are left out
      - {strategy: fsx, weight_bit: [4, 6]}          # a list: any of these
      - {strategy: pof2s, input_layers: {not: null}}
      - weight_bit > activation_bit                  # or a condition
    when:                              # an axis that only some combinations have
      tqt_steps: strategy == "pof2s_tqt"
    seed: 0                            # settings, with their defaults
    calibration: quantized
    vitis_compat: false
    batch_size: 32
    steps: null
    sqnr_images: 100
    eval_images: null
    qat: {epochs: 10}                  # train each variant, or, as an axis, some: [null, {epochs: 10}]
    notebook: mine.ipynb               # runs each variant instead of the shipped one,
    parameters: {threshold: 0.5}       # with parameters of its own, which may also be axes
    screen: {images: 1000}             # try all on so many images, finish those that may be the best
    constraints: {accuracy_delta: {min: -0.01}}   # only runs that keep these may be the best

"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, JsonValue, create_model, model_validator

from vqkit import digest
from vqkit.errors import SweepError, not_allowed
from vqkit.sweeps.conditions import Condition, conditions
from vqkit.sweeps.document import parse, plain_mapping, read_mapping
from vqkit.sweeps.qat import QatSpec
from vqkit.sweeps.settings import Settings

Point = dict[str, Any]
MAX_POINTS = 100_000
"""A sweep of more variants than this would run for years; listing them only fills the memory."""
BASE = "strategy"
LABEL = "name"


SETTINGS = tuple(Settings.__dataclass_fields__)
# What a setting is in a file, where that is more than its type in `Settings`.
_FORMS: dict[str, Any] = {"qat": QatSpec | None, "metrics": list[JsonValue] | None}


def _form_of_settings() -> type[BaseModel]:
    kinds = get_type_hints(Settings) | _FORMS
    keys = {f.name: (kinds[f.name], Field(default=f.default, **f.metadata["bounds"])) for f in fields(Settings)}
    config = ConfigDict(extra="forbid", frozen=True, strict=True)
    return create_model("SettingsSpec", __config__=config, __doc__="The form of settings.", **cast("Any", keys))


if TYPE_CHECKING:

    class SettingsSpec(BaseModel):
        """What is used by name; `_form_of_settings` makes the form."""

        seed: int
        metrics: list[Any] | None
else:
    SettingsSpec = _form_of_settings()
    """The form of a sweep's settings, which may also be axes."""


class ScreenSpec(BaseModel):
    """The form of `screen`.

    Attributes:
        images: evaluation images for the first look, a fixed random choice, the same for all variants.
        confidence: that the best variant on all images is not ruled out.
        calibration: of the first look; one float pass serves all variants.
        margin: how much of the metric that calibration may add or take from a variant, 0..1: of a percentage 0.01 is
            one point, of any other metric 1 % of the float model's value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    images: int = Field(ge=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    calibration: Literal["quantized", "float"] = "float"
    margin: float = Field(default=0.01, ge=0, le=1)


class MetricBound(BaseModel):
    """What a metric may be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float | None = None
    max: float | None = None

    def violation(self, value: float) -> float:
        """How far a value is outside; at most 0 inside."""
        over = [value - self.max] if self.max is not None else []
        return max([*over, *([self.min - value] if self.min is not None else [])], default=0.0)


class SweepSpec(SettingsSpec):
    """The form of a sweep file; the module's docstring shows one."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    model: str
    data: JsonValue
    strategy: str = "pof2s"
    mode: Literal["grid", "random", "list"] = "grid"
    axes: dict[str, list[JsonValue]] = Field(default_factory=dict)
    variants: list[dict[str, JsonValue]] = Field(default_factory=list)
    exclude: list[dict[str, JsonValue] | str] = Field(default_factory=list)
    when: dict[str, str] = Field(default_factory=dict)
    n: int | None = Field(default=None, ge=1)
    screen: ScreenSpec | None = None
    constraints: dict[str, MetricBound] = Field(default_factory=dict)
    notebook: str | None = None
    parameters: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _parts_fit_the_mode(self) -> SweepSpec:
        if (self.mode == "list") != bool(self.variants):
            raise ValueError("'variants' and mode 'list' belong together")
        if self.axes and self.mode == "list":
            raise ValueError("'axes' need mode 'grid' or 'random'")
        if (self.mode == "random") != (self.n is not None):
            raise ValueError("'n' and mode 'random' belong together")
        for axis, values in self.axes.items():
            if axis == LABEL or not values:
                raise ValueError(f"axes: {axis!r} " + ("holds no value" if not values else "is not an axis"))
        combinations = math.prod(len(v) for v in self.axes.values())
        if combinations > MAX_POINTS:
            raise ValueError(f"axes: {combinations} combinations, at most {MAX_POINTS} can be listed")
        known = {k for p in (self.variants if self.mode == "list" else [self.axes]) for k in p}
        unknown = {k for e in self.exclude if isinstance(e, dict) for k in e} - known
        if unknown:
            raise ValueError(f"exclude: {sorted(unknown)[0]!r} is not among the axes, so it can match nothing")
        if self.when and self.mode == "list":
            raise ValueError("'when' needs mode 'grid' or 'random'")
        for axis in self.when:
            if axis not in known:
                raise ValueError(not_allowed("when", axis, sorted(known), what="axis"))
        return self


@dataclass(frozen=True)
class Sweep:
    """A checked sweep and the place its relative paths start from.

    Attributes:
        spec: the file's content.
        base_dir: folder of the file.
        source: the file's name, for messages.

    Example:
        >>> import vqkit
        >>> axes = {"weight_bit": [8, 4]}
        >>> vqkit.Sweep.from_dict({"name": "bits", "model": "quickstart", "data": "quickstart", "axes": axes}).points()
        [{'weight_bit': 8}, {'weight_bit': 4}]
    """

    spec: SweepSpec
    base_dir: Path
    source: str

    @classmethod
    def load(cls, path: str | Path, *, base_dir: str | Path | None = None) -> Sweep:
        """Read a sweep file; its form is checked, not yet its meaning on the model.

        Args:
            path: of the file.
            base_dir: where its relative paths start; its folder by default.

        Raises:
            SweepError: with file, JSON pointer, what was given, what is allowed.
        """
        path = Path(path)
        value = {LABEL: path.stem, **read_mapping(path)}
        return cls.from_dict(value, base_dir=base_dir or path.parent, source=path.name)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], *, base_dir: str | Path = ".", source: str = "sweep") -> Sweep:
        """A sweep from plain JSON.

        Raises:
            SweepError: as `load`.
        """
        sweep = cls(
            parse(SweepSpec, plain_mapping(value, source), source, SweepError),
            Path(base_dir).absolute(),
            source,
        )
        sweep.points()
        return sweep

    @property
    def name(self) -> str:
        """Name of the sweep and of its folder."""
        return self.spec.name

    @property
    def digest(self) -> str:
        """Digest of the file's content."""
        return digest.of_json(self.spec.model_dump(mode="json"))

    def with_screen(self, images: int) -> Sweep:
        """The same sweep with a first look at so many images; other keys of its `screen` stay."""
        known = self.spec.screen.model_dump() if self.spec.screen else {}
        value = {**self.spec.model_dump(), "screen": {**known, "images": images}}
        return Sweep.from_dict(value, base_dir=self.base_dir, source=self.source)

    def with_metrics(self, metrics: Sequence[Any] | None) -> Sweep:
        """The same sweep, judged by other metrics; files by absolute paths."""
        return replace(self, spec=self.spec.model_copy(update={"metrics": metrics}))

    def points(self) -> list[Point]:
        """What each variant overrides, in a fixed order; see `expand`."""
        return expand(self.spec, self.source)


def expand(spec: SweepSpec, source: str = "sweep") -> list[Point]:
    """The variants' overrides: axis -> value, nulls dropped.

    An axis whose condition in `when` does not hold is null; combinations that are the same then are one.
    A grid varies its last axis fastest. A random sweep draws `n` different points of the grid with `seed`,
    and keeps the grid's order.

    Args:
        spec: a checked sweep.
        source: the file's name, for messages.

    Returns:
        One mapping per variant; empty for the base itself.

    Raises:
        SweepError: nothing is left, a condition matches nothing or cannot be read, a random sweep wants more than
            there are, two variants are the same.
    """
    points = _raw_points(spec)
    axes = {k: None for p in points for k in p}
    points = _conditional(points, conditions({f"/when/{k}": v for k, v in spec.when.items()}, axes, source), source)
    stated = {f"/exclude/{i}": rule for i, rule in enumerate(spec.exclude)}
    written = conditions({where: rule for where, rule in stated.items() if isinstance(rule, str)}, axes, source)
    for where, condition in written.items():
        if not any(condition.holds(p) for p in points):
            raise SweepError(f"{source} {where}: {condition.text!r} matches no combination")
    rules = [rule for rule in spec.exclude if isinstance(rule, dict)]
    points = [
        p
        for p in points
        if not any(c.holds(p) for c in written.values()) and not any(matches(p, rule) for rule in rules)
    ]
    if not points:
        raise SweepError(f"{source} /exclude: no variant is left")
    if spec.n is not None:
        if spec.n > len(points):
            raise SweepError(f"{source} /n: {spec.n} variants wanted, the axes give {len(points)}")
        chosen = random.Random(spec.seed).sample(range(len(points)), spec.n)
        points = [points[i] for i in sorted(chosen)]
    points = [{k: v for k, v in p.items() if v is not None} for p in points]
    seen: dict[str, int] = {}
    for i, point in enumerate(points):
        same = seen.setdefault(digest.of_json({k: v for k, v in point.items() if k != LABEL}), i)
        if same != i:
            raise SweepError(f"{source}: variants {same} and {i} are the same: {title(point, spec.strategy)}")
    return points


def _conditional(points: list[Point], when: Mapping[str, Condition], source: str) -> list[Point]:
    """Points without the axes whose conditions do not hold; what is the same then stands once."""
    if not when:
        return points
    found: dict[str, Point] = {}
    for where, condition in when.items():
        if not any(condition.holds(p) for p in points):
            raise SweepError(f"{source} {where}: {condition.text!r} matches no combination")
    for point in points:
        off = {where.removeprefix("/when/") for where, condition in when.items() if not condition.holds(point)}
        kept = {k: v for k, v in point.items() if k not in off}
        found.setdefault(digest.canonical_json(kept), kept)
    return list(found.values())


def settings_of(spec: BaseModel, point: Mapping[str, Any] | None = None) -> Settings:
    """The settings of one variant: the file's, then the point's.

    Args:
        spec: of a sweep or a search.
        point: what the variant overrides.

    Raises:
        SweepError: a value that a setting cannot have.
    """
    values = {name: (point or {}).get(name, getattr(spec, name)) for name in SETTINGS}
    return Settings(**parse(SettingsSpec, values, "settings", SweepError).model_dump())


def _raw_points(spec: SweepSpec) -> list[Point]:
    if spec.mode == "list":
        return [dict(v) for v in spec.variants]
    return [dict(zip(spec.axes, values, strict=True)) for values in itertools.product(*spec.axes.values())]


def matches(point: Point, rule: Mapping[str, Any]) -> bool:
    """Whether an `exclude` entry hits a point: every key of the entry must.

    A plain value must be equal; a list means any of its values, or the list itself (an axis of lists);
    `{"not": x}` means anything but x, x being any of these forms. An axis that the point does not name counts
    as null.
    """
    return all(_hits(point.get(axis), wanted) for axis, wanted in rule.items())


def _hits(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict) and set(wanted) == {"not"}:
        return not _hits(value, wanted["not"])
    if _same(value, wanted):
        return True
    return isinstance(wanted, list) and any(_same(value, w) for w in wanted)


def _same(a: Any, b: Any) -> bool:
    # True == 1 in Python, but not in a sweep file.
    return digest.canonical_json(a) == digest.canonical_json(b)


def title(point: Point, base: str) -> str:
    """A variant's name for people: its own, or the strategy and what is overridden.

    Args:
        point: the overrides.
        base: the strategy where the point names none.
    """
    if LABEL in point:
        return str(point[LABEL])
    words = [f"{k.rsplit('/', 1)[-1]}={_word(v)}" for k, v in point.items() if k != BASE]
    return " ".join([Path(str(point.get(BASE, base))).stem, *words])


def _word(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value)) or "[]"
    if isinstance(value, dict):
        return ",".join(f"{k}:{_word(v)}" for k, v in value.items()) or "{}"
    return str(value).lower() if isinstance(value, bool) else str(value)
