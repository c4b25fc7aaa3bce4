"""A sweep on its real model and data: every variant is planned before the first one runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqkit import digest
from vqkit.errors import SweepError, VqkitError, nearest, not_allowed
from vqkit.runs.records import MEASURED
from vqkit.runs.store import RunRecord
from vqkit.sweeps.notebook import GIVEN, RUN_NOTEBOOK, declared_parameters, find, is_shipped, source_digest
from vqkit.sweeps.settings import Settings
from vqkit.sweeps.source import absolute_data, load_data, load_model, model_path
from vqkit.sweeps.spec import BASE, LABEL, SETTINGS, Point, Sweep, settings_of, title
from vqkit.sweeps.variant import (
    Source,
    Variant,
    base_strategy,
    build_strategy,
    code_digest,
)

if TYPE_CHECKING:
    import keras

    from vqkit.evaluation.tasks import Judge
    from vqkit.quantization.data import Data
    from vqkit.quantization.plan import Plan
    from vqkit.strategy import Strategy

SHOWN = 5


@dataclass(frozen=True)
class Planned:
    """One variant that can run.

    Attributes:
        variant: what will run.
        strategy: its whole strategy as JSON.
        effect: digest of what it does to this model; two strategies may say the same thing differently.
        same_as: name of an earlier variant with the same effect, which runs instead; "" for none.
        runs, reason, record: set by `runner.steps`: whether it will run, why, and what is on disk.
    """

    variant: Variant
    strategy: Mapping[str, Any]
    effect: str
    same_as: str = ""
    runs: bool = False
    reason: str = ""
    record: RunRecord | None = None


@dataclass(frozen=True)
class ResolvedSweep:
    """A sweep that is known to fit its model and data.

    Attributes:
        sweep: the file.
        planned: every variant, in order.
        model_file: absolute path of the model.
        notebook: absolute path of the notebook that runs each variant.
        judged: what decides between variants and why, for people; "" of a notebook of the user's own.
        unheard: what a sweep hands over and this notebook does not declare.
    """

    sweep: Sweep
    planned: tuple[Planned, ...]
    model_file: Path
    notebook: Path
    judged: str = ""
    unheard: tuple[str, ...] = ()

    @property
    def to_run(self) -> tuple[Planned, ...]:
        """The variants without those that repeat an earlier one."""
        return tuple(p for p in self.planned if not p.same_as)

    def to_json(self) -> dict[str, Any]:
        """The content of `sweep.json`."""
        return {
            "name": self.sweep.name,
            "file": self.sweep.source,
            "digest": self.sweep.digest,
            "spec": self.sweep.spec.model_dump(mode="json"),
            "variants": [_entry(p) for p in self.to_run],
            "duplicates": [{**_entry(p), "same_as": p.same_as} for p in self.planned if p.same_as],
        }


def _entry(planned: Planned) -> dict[str, Any]:
    v = planned.variant
    return {"key": v.key, "name": v.name, "overrides": dict(v.overrides), "base": Path(v.base).stem}


def resolve(sweep: Sweep, cache: Path, *, notebook: str | Path | None = None) -> ResolvedSweep:
    """Load model and data, and plan every variant.

    Args:
        sweep: a checked sweep.
        cache: the store's cache folder; a built-in model is kept there.
        notebook: runs instead of the sweep's or of `20_run_variant.ipynb`; what it declares it is given.

    Returns:
        The sweep with all that its variants need.

    Raises:
        SweepError: one or more variants cannot run; the message lists them.
        ModelError, DataError, NotebookError: what all variants share is unusable.
    """
    return opened(sweep, cache, notebook=notebook).resolved(sweep)


def opened(sweep: Sweep, cache: Path, *, notebook: str | Path | None = None) -> LoadedSources:
    """Load what all variants share, once for as many sweeps over it as are wanted.

    Args:
        sweep: names model and data.
        cache: the store's cache folder; a built-in model is kept there.
        notebook: runs instead of `20_run_variant.ipynb`.

    Raises:
        ModelError, DataError, NotebookError: what all variants share is unusable.
    """
    from vqkit.evaluation import judges_for, metrics_of, stated_by_model, told_by

    stated_notebook = notebook or (sweep.spec.notebook and sweep.base_dir / sweep.spec.notebook)
    file = Path(os.path.realpath(stated_notebook)) if stated_notebook else find(RUN_NOTEBOOK)
    declared = tuple(declared_parameters(file))
    of_notebook = source_digest(file)
    code = code_digest(of_notebook)
    path = model_path(sweep.spec.model, sweep.base_dir, cache)
    net = load_model(path)
    data = _data(sweep, net)
    model_ref = sweep.spec.model if sweep.spec.model == "quickstart" else str(path)
    stated = sweep.spec.metrics
    if stated is not None:
        # Files by absolute paths, with the digest of what is in them.
        stated = [m.source for m in metrics_of(list(stated), sweep.base_dir)]
    judges: tuple[Judge, ...] = ()
    told = ""
    if file.samefile(find(RUN_NOTEBOOK)):
        # A notebook of the user's own may have metrics of its own.
        own = stated_by_model(net, data, path) if stated is None else None
        stated = own or stated
        judges, why = judges_for(net, data, stated)
        told = told_by(judges, "as the model was compiled" if own else why)
    known = [f"{j.metric.name}{end}" for j in judges for end in ("", "_delta")]
    for name in sweep.spec.constraints if judges else ():
        if name not in (*known, *MEASURED):
            raise SweepError(not_allowed(f"{sweep.source} /constraints", name, [*known, *MEASURED], what="metric"))
    shared = Shared(
        net,
        Source(model_ref, digest.of_file(path)),
        Source(data.ref, data.digest, (("n_calib", data.n_calib), ("n_eval", data.n_eval))),
        data.n_calib,
        code,
        stated,
        told,
        declared,
        None if is_shipped(file) else Source(str(file), of_notebook),
    )
    return LoadedSources(shared, data, path, file, judges)


@dataclass(frozen=True, eq=False)
class Shared:
    """What all variants of a sweep have in common; `declared` are the notebook's parameters.

    `notebook` is one of the user's own.
    """

    net: keras.Model
    model: Source
    data: Source
    n_calib: int
    code: str
    metrics: list[Any] | None
    judged: str
    declared: tuple[str, ...]
    notebook: Source | None


@dataclass(frozen=True, eq=False)
class LoadedSources:
    """Model, data and notebook, loaded.

    Attributes:
        shared: what variants are planned with.
        data: the arrays.
        model_file: absolute path of the model.
        notebook: absolute path of the notebook that runs each variant.
        judges: what the shipped notebook judges by, the deciding metric first; empty for any other.
    """

    shared: Shared
    data: Data
    model_file: Path
    notebook: Path
    judges: tuple[Judge, ...]

    def resolved(self, sweep: Sweep) -> ResolvedSweep:
        """Plan every variant of a sweep over this model and data.

        Raises:
            SweepError: one or more variants cannot run; the message lists them.
        """
        declared = self.shared.declared
        _check_own(sweep, declared, self.notebook.name)
        planned = _without_repeats(_plan_all(sweep, self.shared))
        _check_effect(sweep, planned, declared, self.notebook.name)
        unheard = tuple(name for name in GIVEN if name not in declared)
        return ResolvedSweep(sweep, planned, self.model_file, self.notebook, self.shared.judged, unheard)


def _check_own(sweep: Sweep, declared: Sequence[str], notebook: str) -> None:
    own = [name for name in declared if name not in (*GIVEN, *SETTINGS)]
    for name in sweep.spec.parameters:
        if name not in own:
            raise SweepError(not_allowed(f"{sweep.source} /parameters", name, own, what=f"parameter of {notebook}"))


def _check_effect(sweep: Sweep, planned: Sequence[Planned], declared: Sequence[str], notebook: str) -> None:
    """What the sweep states must reach the notebook, as a part of a whole or by its own name."""
    default = {BASE: "pof2s", **asdict(Settings())}
    stated = {k for k, v in default.items() if getattr(sweep.spec, k) != v} - {"seed"}
    asked = {"strategy": stated & {BASE}, "settings": stated - {BASE}}
    asked["overrides"] = {k for p in planned for k in p.variant.overrides}
    for point in sweep.points():
        asked["strategy"] |= {BASE} & point.keys()
        asked["settings"] |= point.keys() & set(SETTINGS)
    for whole, names in asked.items():
        deaf = sorted(names - set(declared))
        if whole not in declared and deaf:
            raise SweepError(
                f"{sweep.source}: {deaf[0]!r} has no effect: {notebook} declares neither {whole!r}"
                + (f" nor {deaf[0]!r}" if deaf[0] != whole else "")
            )


def _data(sweep: Sweep, net: keras.Model) -> Data:
    from vqkit.quantization.float_model import check_inputs

    data = load_data(absolute_data(sweep.spec.data, sweep.base_dir))
    for part in ("x_calib", "x_eval"):
        check_inputs(net, getattr(data, part), f"{data.name}/{part}")
    return data


def _plan_all(sweep: Sweep, shared: Shared) -> list[Planned]:
    planned, problems = [], []
    for point in sweep.points():
        try:
            planned.append(_plan(sweep, point, shared))
        except VqkitError as e:
            problems.append(f"{title(point, sweep.spec.strategy)}: {e}")
    if problems:
        n = len(problems)
        more = [f"… and {n - SHOWN} more"] if n > SHOWN else []
        head = f"{sweep.source}: {n} of {n + len(planned)} variants cannot run; nothing was started"
        raise SweepError("\n  ".join([head, *problems[:SHOWN], *more]))
    return planned


def _plan(sweep: Sweep, point: Point, shared: Shared) -> Planned:
    from vqkit.quantization.prepare import make_plan

    if "metrics" in point:
        raise SweepError("metrics: all variants of a sweep are judged alike, so it is no axis")
    settings = replace(settings_of(sweep.spec, point), metrics=shared.metrics)
    available = -(-shared.n_calib // settings.batch_size)
    if settings.steps is not None and settings.steps > available:
        raise SweepError(
            f"steps={settings.steps}, but {shared.n_calib} images in batches of "
            f"{settings.batch_size} give {available} steps"
        )
    n_eval = dict(shared.data.sizes)["n_eval"]
    if settings.eval_images is not None and settings.eval_images > n_eval:
        raise SweepError(f"eval_images={settings.eval_images}, but there are {n_eval} evaluation images")
    base = base_strategy(str(point.get(BASE, sweep.spec.strategy)), sweep.base_dir)
    values = {**sweep.spec.parameters, **{k: v for k, v in point.items() if k not in (BASE, LABEL, *SETTINGS)}}
    bare = build_strategy(base, {})
    own = {k: v for k, v in values.items() if k in shared.declared and not bare.takes(k)}
    overrides = {k: v for k, v in values.items() if k not in own}
    unknown = next((k for k in overrides if not bare.takes(k)), None)
    of_notebook = [name for name in shared.declared if name not in (*GIVEN, *SETTINGS)]
    if unknown is not None and of_notebook:
        raise SweepError(
            f"{unknown!r} is no key of the strategy, and the notebook declares no such parameter"
            f"{nearest(unknown, of_notebook)}; it declares {', '.join(of_notebook)}"
        )
    strategy = build_strategy(bare, overrides)
    plan = make_plan(strategy, shared.net, vitis_compat=settings.vitis_compat)
    name = title(point, sweep.spec.strategy)
    sources = (shared.model, shared.data)
    variant = Variant(name, base, overrides, strategy.digest, *sources, settings, shared.code, own, shared.notebook)
    # All steps and all images, by their number or by no number, are the same.
    same = replace(
        settings,
        steps=None if settings.steps == available else settings.steps,
        eval_images=None if settings.eval_images == n_eval else settings.eval_images,
        sqnr_images=min(settings.sqnr_images, n_eval),
    )
    return Planned(variant, strategy.dump(verbose=2), _effect(strategy, plan, same, own))


def _effect(strategy: Strategy, plan: Plan, settings: Settings, own: Mapping[str, Any]) -> str:
    rows = [{k: r[k] for k in ("layer", "tensor", "role", "slot", "spec")} for r in plan.to_json()["rows"]]
    stages = (strategy.optimize, strategy.quantize, strategy.refine)
    bounds = (strategy.input_layers, strategy.output_layers, strategy.ignore_layers)
    return digest.of_json(
        {
            "rows": rows,
            "stages": [s.model_dump(mode="json") for s in stages],
            "bounds": [sorted(b) for b in bounds],
            "settings": asdict(settings),
            "parameters": dict(own),
        }
    )


def _without_repeats(planned: list[Planned]) -> tuple[Planned, ...]:
    first: dict[str, str] = {}
    result: list[Planned] = []
    for p in planned:
        name = first.setdefault(p.effect, p.variant.name)
        seen_before = any(q.effect == p.effect for q in result)
        result.append(replace(p, same_as=name) if seen_before else p)
    return tuple(result)
