"""Which bits for which layer: integer programming over additive costs.

Every layer takes one option of its weights and one of what it gives. The cost of a model is the sum of its
options' costs (that noise adds up is an assumption; `mixed` checks it by real evaluations), its size is a sum
as well, and its bit-operations are products of two options, which stay exact as products of 0/1 variables.
Source: Z. Yao et al., HAWQ-V3: Dyadic Neural Network Quantization, 2021, for the programme; scipy's HiGHS
solves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from vqkit.environment import held_back
from vqkit.errors import StrategyError

FLOAT_BITS = 32
Choice = dict["ChoiceGroup", "Option"]


@dataclass(frozen=True)
class Option:
    """One way to hold a tensor.

    Attributes:
        bits: width; 32 means left float.
        cost: what it adds to the model's cost.
        per_channel: of weights; None leaves it to the base strategy.
    """

    bits: int
    cost: float
    per_channel: bool | None = None


@dataclass(frozen=True)
class ChoiceGroup:
    """Something that takes one option.

    Attributes:
        layer: name of the unit.
        kind: "weights" or "activations".
        options: to choose from.
        parameters: weights of which each counts the option's bits; 0 for activations.
    """

    layer: str
    kind: str
    options: tuple[Option, ...] = field(compare=False)
    parameters: int = 0


@dataclass(frozen=True)
class Product:
    """Bit-operations of one layer: `macs` x bits of its weights x bits of what it reads.

    Attributes:
        macs: multiply-accumulates for one sample.
        weights, reads: slots, or fixed bits.
    """

    macs: int
    weights: ChoiceGroup | int
    reads: ChoiceGroup | int


@dataclass(frozen=True)
class Problem:
    """Slots, with what the choice is bounded by.

    Attributes:
        slots: each takes one option.
        fixed_bytes: size of everything that has no slot.
        products: the layers' bit-operations.
    """

    slots: tuple[ChoiceGroup, ...]
    fixed_bytes: float
    products: tuple[Product, ...] = ()

    def size(self, choice: Mapping[ChoiceGroup, Option]) -> float:
        """Bytes of a choice."""
        return self.fixed_bytes + sum(s.parameters * o.bits / 8 for s, o in choice.items())

    def cost(self, choice: Mapping[ChoiceGroup, Option]) -> float:
        """Additive cost of a choice."""
        return sum(o.cost for o in choice.values())

    def bit_operations(self, choice: Mapping[ChoiceGroup, Option]) -> float:
        """Bit-operations of a choice, for one sample."""

        def bits(side: ChoiceGroup | int) -> int:
            return side if isinstance(side, int) else choice[side].bits

        return float(sum(p.macs * bits(p.weights) * bits(p.reads) for p in self.products))

    def extremes(self) -> tuple[float, float]:
        """Smallest and largest size."""
        sizes = [[o.bits * s.parameters / 8 for o in s.options] for s in self.slots]
        return self.fixed_bytes + sum(map(min, sizes)), self.fixed_bytes + sum(map(max, sizes))


def solve(
    problem: Problem,
    *,
    max_size: float | None = None,
    max_bit_operations: float | None = None,
    max_cost: float | None = None,
) -> Choice | None:
    """The cheapest choice within the bounds; with `max_cost`, the smallest one.

    Args:
        problem: what there is to choose.
        max_size: bytes.
        max_bit_operations: for one sample.
        max_cost: bound of the additive cost; the size (or without weights, the bit-operations) is minimized.

    Returns:
        Slot -> option, exact for the additive problem; None where nothing fits the bounds.

    Raises:
        StrategyError: the solver failed.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    columns = _Columns(problem, with_products=max_bit_operations is not None or not _has_size(problem))
    rows, low, high = columns.structure()
    for vector, bound in (
        (columns.sizes, None if max_size is None else max_size - problem.fixed_bytes),
        (columns.operations, _less_fixed(columns, max_bit_operations)),
        (columns.costs, max_cost),
    ):
        if bound is not None:
            # Of the size of one: the solver's tolerances are absolute.
            unit = np.abs(vector).max() or 1.0
            rows.append(vector / unit)
            low.append(-np.inf)
            high.append(bound / unit)
    goal = columns.costs if max_cost is None else columns.sizes if _has_size(problem) else columns.operations
    scale = np.abs(goal).max() or 1.0
    # Ties go to the smaller size. The solver prints lines for its own developers.
    with held_back(1):
        found = milp(
            goal / scale + 1e-9 * columns.sizes / (np.abs(columns.sizes).max() or 1.0),
            constraints=LinearConstraint(np.array(rows), low, high),
            integrality=np.ones(columns.n),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0.0},
        )
    if found.status == 2:
        return None
    if found.x is None:
        raise StrategyError(f"mixed precision: the solver gave up: {found.message}")
    return columns.choice(found.x)


def _has_size(problem: Problem) -> bool:
    return any(s.parameters for s in problem.slots)


def _less_fixed(columns: _Columns, bound: float | None) -> float | None:
    return None if bound is None else bound - columns.fixed_operations


class _Columns:
    """The 0/1 variables: one for each option, then one for each product of two options."""

    def __init__(self, problem: Problem, with_products: bool) -> None:
        self.slots = problem.slots
        self.at = {(s, i): n for n, (s, i) in enumerate((s, i) for s in self.slots for i in range(len(s.options)))}
        self.pairs: list[tuple[int, int]] = []
        plain = len(self.at)
        operations = np.zeros(plain)
        extra: list[float] = []
        self.fixed_operations = 0.0
        for p in problem.products if with_products else ():
            if isinstance(p.weights, ChoiceGroup) and isinstance(p.reads, ChoiceGroup):
                for i, j in product(range(len(p.weights.options)), range(len(p.reads.options))):
                    self.pairs.append((self.at[p.weights, i], self.at[p.reads, j]))
                    extra.append(float(p.macs * p.weights.options[i].bits * p.reads.options[j].bits))
                continue
            sides = (p.weights, p.reads)
            known = next(x for x in (*sides[::-1], 1) if isinstance(x, int))
            slot = next((x for x in sides if isinstance(x, ChoiceGroup)), None)
            if slot is None:
                self.fixed_operations += float(p.macs * int(p.weights) * int(p.reads))  # type: ignore[arg-type]
            else:
                for i, o in enumerate(slot.options):
                    operations[self.at[slot, i]] += float(p.macs * known * o.bits)
        self.n = plain + len(self.pairs)
        self.operations = np.concatenate([operations, extra])
        chosen = [(s, s.options[i]) for s, i in self.at]
        self.costs = self._padded([o.cost for _, o in chosen])
        self.sizes = self._padded([s.parameters * o.bits / 8 for s, o in chosen])

    def _padded(self, values: list[float]) -> np.ndarray:
        return np.concatenate([values, np.zeros(len(self.pairs))])

    def structure(self) -> tuple[list[np.ndarray], list[float], list[float]]:
        """One option for each slot; a product is 1 exactly where both its factors are."""
        rows: list[np.ndarray] = []
        low: list[float] = []
        high: list[float] = []
        for slot in self.slots:
            row = np.zeros(self.n)
            row[[self.at[slot, i] for i in range(len(slot.options))]] = 1
            rows.append(row)
            low.append(1)
            high.append(1)
        first = self.n - len(self.pairs)
        for k, (a, b) in enumerate(self.pairs):
            row = np.zeros(self.n)
            row[a] = row[b] = 1
            row[first + k] = -1
            rows.append(row)  # a + b - ab <= 1; the other two bounds hold because operations are minimized.
            low.append(-np.inf)
            high.append(1)
        return rows, low, high

    def choice(self, x: np.ndarray) -> Choice:
        found: Choice = {}
        for (slot, i), n in self.at.items():
            if x[n] > 0.5:
                found[slot] = slot.options[i]
        return found


def budgets(problem: Problem, points: int) -> list[float]:
    """Sizes at which a front is asked for, bytes, smallest first, evenly spread between the extremes."""
    low, high = problem.extremes()
    return [float(b) for b in np.linspace(low, high, points)]


def front(
    problem: Problem, points: int, *, max_size: float | None = None, max_bit_operations: float | None = None
) -> Sequence[Choice]:
    """The cheapest choice at each of several sizes, without repetitions.

    Args:
        problem: what there is to choose.
        points: number of sizes.
        max_size: bytes that none may exceed.
        max_bit_operations: that none may exceed.
    """
    found: dict[tuple[Option, ...], Choice] = {}
    for budget in budgets(problem, points):
        bound = budget if max_size is None else min(budget, max_size)
        choice = solve(problem, max_size=bound * (1 + 1e-9), max_bit_operations=max_bit_operations)
        if choice is not None:
            found.setdefault(tuple(choice[s] for s in problem.slots), choice)
    return list(found.values())
