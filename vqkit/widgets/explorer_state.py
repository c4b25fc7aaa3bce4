"""The state of the explorer, without widgets.

Every change is a new `Strategy`, resolved to a new plan on the graph that is already prepared; only tensors
whose quantizer changed are computed again.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vqkit.errors import StrategyError
from vqkit.evaluation.preview import Preview, QuantizerCost, SqnrCurve, changed_rows, error_curve
from vqkit.execution.in_memory import InMemoryRun, Tell, keep_trial, model_source, run_trial
from vqkit.graph.keras_io import lower
from vqkit.primitives.ops import fake_quantize_numpy
from vqkit.primitives.qparams import QParams
from vqkit.quantization.data import Data
from vqkit.quantization.plan import Plan, Role, Row
from vqkit.quantization.prepare import Graphs, PreparedModel, as_strategy, graphs, graphs_key, planned
from vqkit.strategy.fit import UnusedError
from vqkit.strategy.scope import Scope, Target, change, leave_float, scope_of
from vqkit.sweeps.variant import Settings, Source

if TYPE_CHECKING:
    import keras
    from numpy.typing import ArrayLike

    from vqkit.strategy import Strategy


_ORDER = (Scope.MODEL, Scope.TYPE, Scope.TENSOR)


def narrower(plan: Plan, row: Row, param: str, value: Any, scope: Scope) -> list[tuple[str, str]]:
    """Where a change would not reach, because a narrower rule says another value.

    Args:
        plan: before the change.
        row: the tensor that is looked at.
        param: one of `strategy.scope.PARAMS`; there is nothing narrower about "left_float".
        value: as the JSON has it.
        scope: how far the change is to reach.

    Returns:
        For each tensor its row name and the JSON pointer of the rule that decides.
    """
    return [
        (r.name, r.origins[param][1])
        for r in _alike(plan, row, param, scope)
        if _kept(r, param, scope) and value not in _said(r, param)
    ]


def reaches(plan: Plan, row: Row, param: str, scope: Scope) -> bool:
    """Whether a change would decide for any tensor at all; arguments as for `narrower`."""
    return any(not _kept(r, param, scope) for r in _alike(plan, row, param, scope))


def _alike(plan: Plan, row: Row, param: str, scope: Scope) -> list[Row]:
    if scope is Scope.TENSOR:
        return []
    return [
        r
        for r in plan.quantized
        if r.role is row.role and param in r.origins and (scope is Scope.MODEL or r.kind == row.kind)
    ]


def _kept(row: Row, param: str, scope: Scope) -> bool:
    source, where = row.origins[param]
    ruled = not source.startswith(("builtin", "default"))
    return ruled and _ORDER.index(scope_of(where)) > _ORDER.index(scope)


def _said(row: Row, param: str) -> tuple[Any, Any]:
    value = getattr(row.spec, param)
    return value, getattr(value, "name", value)


@dataclass(frozen=True, eq=False)
class State:
    """One moment of the bench.

    Attributes:
        strategy: in use.
        prepared: the model, rewritten and planned as it says.
        preview: kept values of that graph.
        costs: plan row name -> its quantizer's own noise.
    """

    strategy: Any
    prepared: PreparedModel
    preview: Preview
    costs: Mapping[str, QuantizerCost]

    @property
    def plan(self) -> Plan:
        """What the strategy does to each tensor."""
        return self.prepared.plan

    @cached_property
    def changes(self) -> Mapping[str, Any]:
        """In what the strategy differs from its built-in."""
        return dict(self.strategy.overrides())


@dataclass(frozen=True, eq=False)
class TensorView:
    """What a picture of one tensor needs.

    Attributes:
        values, quantized: the kept values, float and on the grid.
        qparams: the grid.
        curve: error over the scale.
        before: the weight before equalization, if that changed it.
        axis: of the channels in `values`.
    """

    values: np.ndarray
    quantized: np.ndarray
    qparams: QParams
    curve: SqnrCurve
    before: np.ndarray | None
    axis: int


class Exploration:
    """A model, data and a strategy that changes.

    Args:
        model: a built functional or Sequential Keras model, or the path of one; it is not changed.
        data: a `Data`, a description that `load_data` takes, or calibration inputs alone.
        strategy: a `Strategy`, or the name or path of one.
        settings: how *Evaluate* calibrates.
        samples: how many calibration samples the preview keeps values of.

    Attributes:
        dropped: JSON pointers of wider rules that the last change took out, as they decided nothing any more.
    """

    def __init__(
        self,
        model: keras.Model | str | Path,
        data: Data | ArrayLike | str | Mapping[str, Any],
        strategy: Strategy | str | Path = "pof2s",
        *,
        settings: Settings | None = None,
        samples: int = 32,
    ) -> None:
        self.path, self.model = _opened_model(model)
        self.data = _opened_data(data)
        self.settings = settings or Settings()
        self._samples = samples
        self._lowered = lower(self.model)
        self._made: dict[str, tuple[Graphs, Preview]] = {}
        self._at = 0
        self._trials: dict[str, InMemoryRun] = {}
        self._float_metrics: Any = None
        self._unequalized: dict[int, Mapping[str, Any]] = {}
        self._curves: dict[Any, SqnrCurve] = {}
        self._source: Source | None = None
        self.dropped: tuple[str, ...] = ()
        self._states = [self._state(as_strategy(strategy))]

    # --- where it stands ---

    @property
    def state(self) -> State:
        """The present."""
        return self._states[self._at]

    @property
    def strategy(self) -> Any:
        """The strategy in use."""
        return self.state.strategy

    @property
    def plan(self) -> Plan:
        """Its plan."""
        return self.state.plan

    @property
    def trial(self) -> InMemoryRun | None:
        """What *Evaluate* found for this very strategy, if it was run."""
        return self._trials.get(self.strategy.digest)

    # --- changes ---

    def set(self, row: Row, param: str, value: Any, scope: Scope, *, replace: bool = False) -> list[Row]:
        """Change one parameter of a quantizer.

        A wider rule that decides nowhere once a narrower one is made is taken out; see `dropped`.

        Args:
            row: the tensor that is looked at.
            param: one of `strategy.scope.PARAMS`, or "left_float".
            value: as the JSON has it.
            scope: how far it reaches.
            replace: narrower rules that say another value are taken out, see `precedence.narrower`.

        Returns:
            The rows whose quantizer changed.

        Raises:
            StrategyError: not allowed, or it reaches nothing; the bench stays as it was.
        """
        target = self.target(row)
        if param == "left_float":
            return self._used(leave_float(self.strategy, target, scope, bool(value), row.kind))
        kept = narrower(self.plan, row, param, value, scope)
        rules = dict.fromkeys(where for _, where in kept) if replace else {}
        strategy = change(self.strategy.without(rules), target, scope, param, value)
        if kept and not replace and not reaches(self.plan, row, param, scope):
            name, where = kept[0]
            raise StrategyError(
                f"{param} of {scope}: a narrower rule decides in every place, such as {where} for {name};"
                " press Replace narrower rules, or choose a narrower reach"
            )
        return self._used(strategy)

    def _used(self, strategy: Strategy) -> list[Row]:
        """`use`, without wider rules that this change leaves nothing to decide."""
        try:
            return self.use(strategy)
        except UnusedError as e:
            said = {u.pointer for u in e.unused}
            before = {where for r in self.plan.rows for _, where in r.origins.values()}
            if not said <= before:  # what this change says itself reaches nothing
                raise
            changed = self.use(strategy.without(said))
            self.dropped = tuple(sorted(said))
            return changed

    def use(self, strategy: Strategy) -> list[Row]:
        """Put another strategy on the bench; what was undone before is forgotten.

        Returns:
            The rows whose quantizer changed.

        Raises:
            StrategyError: it does not fit the model; the bench stays as it was.
        """
        now, after = self.state, self._state(strategy)
        self.dropped = ()
        self._states = [*self._states[: self._at + 1], after]
        self._at += 1
        return changed_rows(now.plan, after.plan)

    def undo(self) -> bool:
        """Go one change back; False at the beginning."""
        return self._move(-1)

    def redo(self) -> bool:
        """Take an undone change again; False at the end."""
        return self._move(1)

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to take back."""
        return self._at > 0

    @property
    def can_redo(self) -> bool:
        """Whether there is an undone change."""
        return self._at + 1 < len(self._states)

    def _move(self, step: int) -> bool:
        if not 0 <= self._at + step < len(self._states):
            return False
        self._at += step
        return True

    # --- one tensor ---

    def target(self, row: Row) -> Target:
        """Where the strategy speaks about a row."""
        entry = row.origins.get("quantizer_type", ("", ""))[1].removesuffix("/quantizer_type")
        role = Role.ACTIVATION.value if row.role is Role.ACTIVATION else row.role.value
        return Target(self._named(row), role, entry)

    def _named(self, row: Row) -> str:
        if row.role is not Role.INPUT or row.value is None:
            return row.layer
        graph = self.state.prepared.graph
        node = graph.producers().get(row.value)
        return next(k for k, v in graph.inputs.items() if v == row.value) if node is None else node.name

    def look(self, row: Row) -> TensorView | None:
        """What a picture of a row needs; None where it has no quantizer or no kept values."""
        cost, values = self.state.costs.get(row.name), self.state.preview.tensor(row)
        if cost is None or values is None:
            return None
        spec = cost.qparams.spec
        key = (id(self.state.preview), row.name, spec)
        if key not in self._curves:
            self._curves[key] = error_curve(values, spec)
        quantized = fake_quantize_numpy(values, cost.qparams)
        axis = _channel_axis(row) if row.is_weight else -1
        return TensorView(values, quantized, cost.qparams, self._curves[key], self._before(row), axis)

    def _before(self, row: Row) -> np.ndarray | None:
        """A weight before channels were equalized; found once for each graph, when first asked for."""
        strategy, graph = self.strategy, self.state.prepared.graph
        if not (row.is_weight and strategy.optimize.include_cle):
            return None
        if id(graph) not in self._unequalized:
            plain = graphs(self._lowered, strategy.with_kwargs(include_cle=False))
            self._unequalized[id(graph)] = plain.device.layers
        layer = self._unequalized[id(graph)].get(row.layer)
        was = None if layer is None else layer.weights.get(row.tensor)
        now = graph.layers[row.layer].weights[row.tensor]
        return None if was is None or was.shape != now.shape or np.array_equal(was, now) else was

    # --- the whole model ---

    def evaluate(
        self, tell: Tell | None = None, cancelled: threading.Event | None = None, *, strategy: Strategy | None = None
    ) -> InMemoryRun:
        """Quantize and evaluate; see `experiment.trial.run_trial`.

        Args:
            tell, cancelled: as there.
            strategy: the one in use now by default.
        """
        trial = run_trial(
            self.model,
            strategy or self.strategy,
            self.data,
            self.settings,
            tell=tell,
            cancelled=cancelled,
            float_metrics=self._float_metrics,
        )
        if trial.scores is not None:
            self._float_metrics = trial.scores.float_metrics
        self._trials[trial.strategy.digest] = trial
        return trial

    def save(self, path: str | Path) -> Path:
        """Write the strategy as it is now.

        Raises:
            StrategyError: the path is no `.json` file that can be written.
        """
        return write_strategy(self.strategy, path)

    def track(self, runs_dir: str | Path, *, name: str = "", tracking_uri: str | None = None) -> str:
        """Keep the trial of this strategy as a run, and log it to mlflow.

        Args:
            runs_dir: the run folder.
            name: of the run; made from the changes by default.
            tracking_uri: any mlflow store; by default the one in the run folder.

        Returns:
            The key of the run.

        Raises:
            StrategyError: this strategy was not evaluated.
            TrackingError: the store refused; the record is on disk all the same.
        """
        from vqkit.runs.mlflow import Tracker
        from vqkit.runs.store import Store

        trial = self.trial
        if trial is None:
            raise StrategyError("evaluate this strategy first: there is no result to keep")
        if self._source is None:
            self._source = model_source(self.model, self.path)
        runs = Store.at(runs_dir)
        named = name or _run_name(trial.strategy)
        record = keep_trial(runs, trial, self._source, self.data, name=named)
        Tracker.open(tracking_uri, runs_dir=runs.root).log_variant(runs.variant_dir(record.key))
        return record.key

    # --- beginnings ---

    def _state(self, strategy: Strategy) -> State:
        """Graphs and kept values are made once for all strategies that rewrite and select alike."""
        key = graphs_key(strategy, False)
        made = self._made.get(key)
        if made is None:
            fresh = graphs(self._lowered, strategy)
            prepared = planned(fresh, strategy, False)  # before anything runs
            made = fresh, Preview.of(fresh.device, _calibration(self.data), samples=self._samples)
            self._made[key] = made
        else:
            prepared = planned(made[0], strategy, False)
        return State(strategy, prepared, made[1], _costs(made[1], prepared.plan))


def write_strategy(strategy: Strategy, path: str | Path) -> Path:
    """Write a strategy where a person said.

    Args:
        strategy: what is shown.
        path: of a `.json` file; folders are made.

    Returns:
        The path.

    Raises:
        StrategyError: another suffix, or it cannot be written.
    """
    file = Path(path)
    if file.suffix != ".json":
        raise StrategyError(f"a strategy file ends in .json, got {str(path)!r}")
    try:
        strategy.dump(file)
    except OSError as e:
        raise StrategyError(f"{file}: cannot be written: {e.strerror or e}") from e
    return file


def _costs(preview: Preview, plan: Plan) -> dict[str, QuantizerCost]:
    try:
        return preview.costs(plan.rows)
    except ValueError as e:
        raise StrategyError(str(e)) from e


def _calibration(data: Data | ArrayLike) -> Any:
    return data.x_calib if isinstance(data, Data) else data


def _channel_axis(row: Row) -> int:
    """Depthwise kernels are (height, width, channels, 1)."""
    if row.spec is not None and row.spec.per_channel:
        return row.spec.channel_axis
    return -2 if row.kind == "DepthwiseConv2D" and row.role is Role.WEIGHT else -1


def _opened_model(model: keras.Model | str | Path) -> tuple[Path | None, Any]:
    if not isinstance(model, str | Path):
        return None, model
    from vqkit.sweeps.source import load_model

    return Path(model), load_model(Path(model))


def _opened_data(data: Data | ArrayLike | str | Mapping[str, Any]) -> Any:
    if isinstance(data, str) or (isinstance(data, dict) and {"npz", "loader"} & data.keys()):
        from vqkit.sweeps.source import load_data

        return load_data(data)
    return data


def _run_name(strategy: Strategy) -> str:
    """The built-in's name and what was changed, as a leaderboard shows it."""
    changes = [f"{k.rpartition('/')[2]}={v}" for k, v in strategy.overrides().items()]
    more = f" and {len(changes) - 4} more" if len(changes) > 4 else ""
    return " ".join([strategy.base, *changes[:4]]) + more
