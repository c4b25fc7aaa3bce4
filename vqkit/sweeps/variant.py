"""One point of a sweep with everything that decides its result, and the key that follows from it."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqkit import digest
from vqkit._version import __version__
from vqkit.errors import RecordError, SweepError, not_allowed
from vqkit.sweeps.settings import Settings

if TYPE_CHECKING:
    from vqkit.strategy import Strategy


@dataclass(frozen=True)
class Source:
    """A model or data set: how it is named, where it lies, and what is in it.

    Attributes:
        ref: as the sweep names it, paths made absolute; JSON.
        digest: of the content.
        sizes: counts for the record, e.g. {"n_eval": 10000}.
    """

    ref: Any
    digest: str
    sizes: tuple[tuple[str, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The source as a record holds it."""
        return {"ref": self.ref, "digest": self.digest, **dict(self.sizes)}


@dataclass(frozen=True)
class Variant:
    """One run to be made.

    Attributes:
        name: for people.
        base: built-in strategy or absolute path of a strategy file.
        overrides: strategy keyword or JSON pointer -> value, folded into `strategy_digest`.
        strategy_digest: digest of the strategy that results.
        model, data: what it is measured on.
        settings: how.
        code: version and digest of what computes the numbers.
        own: parameters of the notebook's own -> value.
        notebook: what runs it, unless it is the shipped notebook.
    """

    name: str
    base: str
    overrides: Mapping[str, Any]
    strategy_digest: str
    model: Source
    data: Source
    settings: Settings
    code: str
    own: Mapping[str, Any] = field(default_factory=dict)
    notebook: Source | None = None

    @property
    def key(self) -> str:
        """Digest of all that decides the result; names and paths do not."""
        return key_of(self.inputs())

    def inputs(self) -> dict[str, Any]:
        """What the run record says about where the numbers come from."""
        return {
            "model": self.model.to_json(),
            "data": self.data.to_json(),
            "strategy": {"base": Path(self.base).stem, "digest": self.strategy_digest},
            "overrides": dict(self.overrides),
            **asdict(self.settings),
            **({"parameters": dict(self.own)} if self.own else {}),
            **({} if self.notebook is None else {"notebook": self.notebook.to_json()}),
            "code": self.code,
        }

    def parameters(self, declared: Container[str]) -> dict[str, Any]:
        """What the notebook is given, but for model, run folder and cache.

        Args:
            declared: names that the notebook declares, which are given to it: a whole (`overrides`, `settings`), or
                one of the strategy's keywords or settings by its own name.
        """
        settings = asdict(self.settings)
        known = {
            **settings,
            **self.overrides,
            **self.own,
            "name": self.name,
            "key": self.key,
            "data": self.data.ref,
            "strategy": self.base,
            "overrides": dict(self.overrides),
            "settings": settings,
        }
        return {name: value for name, value in known.items() if name in declared}


def deciding(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record's inputs that the key is made of: contents, not names."""
    contents = {name: inputs[name]["digest"] for name in ("model", "data", "strategy")}
    # A record from before a setting was known has its key without it.
    names = [name for name in (*Settings.__dataclass_fields__, "code") if name in inputs and name != "metrics"]
    own = {"parameters": inputs["parameters"]} if inputs.get("parameters") else {}
    metrics = inputs.get("metrics")
    stated = {} if metrics is None else {"metrics": [_content(m) for m in metrics]}
    return {**contents, **{name: inputs[name] for name in names}, **own, **stated}


def _content(metric: Any) -> Any:
    """A stated metric without the folder of its file, whose content has a digest."""
    if not isinstance(metric, Mapping) or "digest" not in metric:
        return metric
    return {**metric, "function": Path(str(metric["function"])).name}


def key_of(inputs: Mapping[str, Any]) -> str:
    """Key of a run from its inputs."""
    return digest.of_json(deciding(inputs))


def checked_inputs(inputs: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
    """A record's inputs that hold what a run can be made from again.

    Args:
        inputs: of a record.
        where: the record, for the message.

    Raises:
        RecordError: something is missing.
    """
    sources = [inputs.get(name) for name in ("model", "data", "strategy")]
    whole = all(isinstance(s, Mapping) and "digest" in s for s in sources)
    if not whole or not all("ref" in inputs[name] for name in ("model", "data")):
        raise RecordError(f"{where}: its inputs do not say which model, data and strategy were used")
    return dict(inputs)


def build_strategy(base: str | Strategy, overrides: Mapping[str, Any]) -> Strategy:
    """A strategy with overrides on top of a built-in one or a file.

    Args:
        base: built-in name or path, or the strategy itself.
        overrides: keyword (`weight_bit`) or JSON pointer (`/quantize_registry_config/…`) -> value.

    Raises:
        StrategyError: unknown base, keyword or pointer, or a value that is not allowed there.

    Example:
        >>> import vqkit
        >>> vqkit.build_strategy("fsx", {"weight_bit": 6}).layer_rule("Dense").weights[0][1].spec.bit_width
        6
    """
    from vqkit.strategy import resolve_name_or_path

    strategy = resolve_name_or_path(base) if isinstance(base, str) else base
    return strategy.with_overrides(overrides) if overrides else strategy


def base_strategy(name: str, base_dir: str | Path) -> str:
    """A strategy named in a sweep file, so that it means the same in every process.

    Args:
        name: built-in name, or path of a JSON file.
        base_dir: relative paths start here.

    Returns:
        The built-in name, or an absolute path.

    Raises:
        SweepError: neither.
    """
    path = Path(base_dir, name)
    if path.suffix != ".json":
        return name
    if not os.path.isfile(path):
        raise SweepError(not_allowed("strategy", name, ["a built-in name", "the path of an existing .json file"]))
    return str(path.resolve())


def code_digest(notebook_digest: str) -> str:
    """Version and digest of everything that can change a number: package, notebook, TensorFlow, Keras, numpy.

    Args:
        notebook_digest: `notebook.source_digest` of the notebook that runs.

    Returns:
        E.g. `0.1.0+5f2c…`.
    """
    return f"{__version__}+{digest.of_json({'code': digest.code_digest(), 'notebook': notebook_digest})}"
