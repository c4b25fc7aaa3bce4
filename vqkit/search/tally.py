"""How far outputs lie from the float model's, summed up batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqkit.flow.data import EVAL_BATCH
from vqkit.flow.fixed_size import size_of
from vqkit.flow.labels import first_output, right_answers
from vqkit.flow.quality import decibel
from vqkit.graph.ir import Graph

_TINY = 1e-12


@dataclass
class Tally:
    """Sums over batches; a model with several outputs is judged by the first, as `evaluate` does.

    Attributes:
        n: samples seen.
        right: samples whose label was hit.
        signal, noise: energies of the float outputs and of the difference.
        divergence: sum over samples of KL(float || quantized), nats; NaN where outputs are no distribution.
    """

    n: int = 0
    right: int = 0
    signal: float = 0.0
    noise: float = 0.0
    divergence: float = 0.0

    def add(self, outputs: Any, reference: Any, labels: NDArray[Any]) -> None:
        """Count one batch.

        Args:
            outputs: of the quantized model, shape (n, …).
            reference: of the float model, same shape.
            labels: class numbers (n,) or (n, 1), or one-hot (n, classes).
        """
        own, other = first_output(outputs), first_output(reference)
        self.n += len(own)
        self.right += int(np.count_nonzero(right_answers(own, labels)))
        wide = other.astype(np.float64)
        self.signal += float(np.sum(wide**2))
        self.noise += float(np.sum((own - wide) ** 2))
        self.divergence += float(np.sum(kl(other, own)))

    def numbers(self) -> dict[str, float]:
        """`accuracy` (fraction), `sqnr_db` of the output, `kl` (nats per sample)."""
        accuracy, divergence = self.right / self.n, self.divergence / self.n
        return {"accuracy": accuracy, "sqnr_db": decibel(self.signal, self.noise), "kl": divergence}


def batch_size(graph: Graph) -> int:
    """Samples that are evaluated at once: the size that a model is made for, where that is fixed."""
    return size_of(graph) or EVAL_BATCH


def tallied(outputs: Any, reference: Any, labels: NDArray[Any], size: int = EVAL_BATCH) -> dict[str, float]:
    """The numbers of a whole evaluation, summed in the batches in which `evaluate` computes it.

    Sums of floats depend on their order: so a question that is asked batch by batch has the same numbers.

    Args:
        outputs: as in `Tally.add`, of all samples.
        reference: likewise.
        labels: likewise.
        size: samples in a batch.
    """
    tally = Tally()
    for begin in range(0, len(outputs), size):
        here = slice(begin, begin + size)
        tally.add(outputs[here], reference[here], labels[here])
    return tally.numbers()


def kl(reference: NDArray[Any], outputs: NDArray[Any]) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of each sample's class distribution from the float model's.

    Args:
        reference: float model's outputs, shape (n, classes), logits or probabilities; (n, 1) is a probability
            or a logit of class 1.
        outputs: quantized model's outputs, same shape.

    Returns:
        Nats, shape (n,); NaN where the outputs are not one vector for each sample.
    """
    if reference.ndim != 2:
        return np.full(len(reference), np.nan)
    p, q = _distributions(reference, outputs)
    return np.asarray(np.sum(p * (np.log(np.maximum(p, _TINY)) - np.log(np.maximum(q, _TINY))), axis=-1))


def _distributions(reference: NDArray[Any], outputs: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    a, b = reference.astype(np.float64), outputs.astype(np.float64)
    inside = bool(np.all((a >= 0) & (a <= 1)))
    if a.shape[1] == 1:
        p, q = (v if inside else 1 / (1 + np.exp(-np.clip(v, -60, 60))) for v in (a, b))
        return np.hstack([1 - p, p]), np.hstack([1 - q, q])
    if inside and np.allclose(a.sum(-1), 1, atol=1e-3):
        return a, b
    return _softmax(a), _softmax(b)


def _softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))
