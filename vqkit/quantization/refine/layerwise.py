"""One layer after the other with the data at hand: walk, and training.

Two copies of the graph advance side by side, the float one and the quantized one. Only the values that later
nodes still read are kept, for all batches, so each node runs once however many layers are tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vqkit.graph.execute import Partition, partition
from vqkit.graph.ir import Graph, Node, Ref
from vqkit.graph.keras_io import replay, tensors
from vqkit.graph.keras_layers import variables
from vqkit.graph.passes.match import Chains, activation_name
from vqkit.primitives.ops import fake_quantize
from vqkit.primitives.qparams import QParams
from vqkit.primitives.spec import QuantizerSpec
from vqkit.quantization.layer_kinds import QUANTIZED_AFTER
from vqkit.quantization.plan import Plan, QuantizedRow, Row
from vqkit.quantization.solve import Encodings

Tune = Callable[["Block", list[Any], list[Any]], None]


@dataclass(frozen=True, eq=False)
class Block:
    """A quantized layer with the activation and the quantizer that alone read it.

    Attributes:
        nodes: the layer, then its activation and its fake-quantize node where it has them.
        graph: these nodes as a graph of their own, with the input "x".
        weights: variable name -> plan row of each quantized weight.
        quantizer: row of the output's quantizer, if the block ends with one.
    """

    nodes: tuple[Node, ...]
    graph: Graph
    weights: Mapping[str, QuantizedRow]
    quantizer: Row | None

    @property
    def layer(self) -> str:
        """Name of the layer."""
        return self.nodes[0].layer

    @property
    def computing(self) -> Graph:
        """The block without its quantizer."""
        return self.graph if self.quantizer is None else _alone(self.graph, self.nodes[:-1])


def find_blocks(graph: Graph, rows: Mapping[str, QuantizedRow], plan: Plan) -> tuple[list[Block], list[str]]:
    """The layers that can be tuned on their own, and why others cannot.

    Args:
        graph: with fake-quantize layers inserted.
        rows: fake-quantize layer name -> plan row.
        plan: says which weights are quantized.

    Returns:
        Blocks in graph order, and a line for each layer with quantized weights that is none.
    """
    chains, calls = Chains(graph), graph.calls()
    quantized = _quantized_weights(plan)
    blocks, left = [], []
    for node in {n.layer: n for n in reversed(graph.nodes) if n.layer in quantized}.values():
        reason = _obstacle(graph, node, calls)
        if reason:
            left.append(f"{node.layer}: {reason}, left as it is")
        else:
            blocks.append(_block(graph, rows, chains, node, quantized[node.layer]))
    return blocks[::-1], left[::-1]


def _quantized_weights(plan: Plan) -> dict[str, dict[str, QuantizedRow]]:
    found: dict[str, dict[str, QuantizedRow]] = {}
    for row in plan.quantized:
        if row.is_weight:
            found.setdefault(row.layer, {})[row.tensor] = row
    return found


def _obstacle(graph: Graph, node: Node, calls: Mapping[str, int]) -> str:
    if calls[node.layer] > 1:
        return f"called {calls[node.layer]} times"
    if len(node.inputs) != 1 or len(node.outputs) != 1:
        return f"{len(node.inputs)} inputs and {len(node.outputs)} outputs"
    dtypes = {graph.values[v].dtype for v in (*node.inputs, *node.outputs)}
    return "" if dtypes == {"float32"} else f"computes {', '.join(sorted(dtypes))}"


def _block(
    graph: Graph, rows: Mapping[str, QuantizedRow], chains: Chains, head: Node, weights: Mapping[str, QuantizedRow]
) -> Block:
    nodes, reader = [head], chains.only_reader(head)
    if reader is not None and _rectifies(graph, reader):
        nodes.append(reader)
        reader = chains.only_reader(reader)
    quantizer = rows.get(reader.layer) if reader is not None else None
    if reader is not None and quantizer is not None:
        nodes.append(reader)
    return Block(tuple(nodes), _alone(graph, nodes), weights, quantizer)


def _rectifies(graph: Graph, node: Node) -> bool:
    layer = graph.layer_of(node)
    plain = layer.kind == "Activation" and activation_name(layer) in (*QUANTIZED_AFTER, "relu6")
    return layer.kind in ("ReLU", "LeakyReLU") or plain


def _alone(graph: Graph, nodes: Sequence[Node]) -> Graph:
    """A chain of nodes as a graph with the input "x" and one output."""
    layers = {n.layer: graph.layers[n.layer] for n in nodes}
    value = nodes[0].inputs[0]
    return Graph(
        nodes[0].name,
        {"x": value},
        Ref(value),
        Ref(nodes[-1].output),
        list(nodes),
        layers,
        {v: graph.values[v] for n in nodes for v in (*n.inputs, *n.outputs)},
    )


def walk(
    graph: Graph,
    sides: tuple[Mapping[str, Any], Mapping[str, Any]],
    batches: Iterable[Any],
    blocks: Iterable[Block],
    tune: Tune,
    *,
    float_inputs: bool = False,
) -> None:
    """Visit blocks in graph order, each with its inputs and the outputs it should have.

    Memory: for all samples, the values at one place of the graph, twice, and one block's target.

    Args:
        graph: with fake-quantize layers inserted.
        sides: live objects of the float and of the quantized graph, by layer name.
        batches: model inputs, readable twice.
        blocks: what to visit.
        tune: called with a block, its inputs and its float outputs, each a list with a tensor for each
            batch; it may assign the quantized layer's weights, which later blocks then see.
        float_inputs: give the float graph's values as inputs instead of the quantized graph's.
    """
    wanted = {b.nodes[0].name: b for b in blocks}
    floats, fakes = (_Frontier(graph, live, batches) for live in sides)
    last = max((i for i, n in enumerate(graph.nodes) if n.name in wanted), default=-1)
    for i, node in enumerate(graph.nodes[: last + 1]):
        block = wanted.get(node.name)
        if block is not None:
            target = [replay(block.computing, sides[0], {"x": x}) for x in floats.inputs_of(node)]
            tune(block, (floats if float_inputs else fakes).inputs_of(node), target)
        part = partition(graph, i, i + 1, outputs=False)
        floats.advance(part)
        fakes.advance(part)


class _Frontier:
    """The values of all batches at the place where a walk stands."""

    def __init__(self, graph: Graph, live: Mapping[str, Any], batches: Iterable[Any]) -> None:
        self._live = live
        named = [tensors(graph, batch) for batch in batches]
        self._values = [{graph.inputs[name]: x for name, x in one.items()} for one in named]

    def inputs_of(self, node: Node) -> list[Any]:
        return [values[node.inputs[0]] for values in self._values]

    def advance(self, part: Partition) -> None:
        """Compute a node for every batch; forget what only it read."""
        for values in self._values:
            made = replay(part.graph, self._live, {f"v{v}": values[v] for v in part.reads})
            values.update(zip(part.writes, made, strict=True))
            for v in part.done:
                del values[v]


Pairs = Sequence[tuple[Any, Any]]
Weights = dict[str, Any]

_DECAY, _DECAY_SQUARES, _EPSILON = 0.9, 0.999, 1e-7


class Trainers:
    """Finds or compiles the trainer of a block.

    Args:
        live: layer name -> live object of the quantized graph.
        encodings: the decisions for weights and values.
        make: the kind of trainer.
    """

    def __init__(self, live: Mapping[str, Any], encodings: Encodings, make: type[Trainer] | None = None) -> None:
        self._live, self._encodings, self._make = live, encodings, make or Trainer
        self._known: dict[tuple[Any, ...], Trainer] = {}

    @property
    def count(self) -> int:
        """How many trainers were compiled."""
        return len(self._known)

    def task(self, block: Block, weights: Weights, pairs: Pairs) -> Task:
        """What training one block takes.

        Args:
            block: what is trained.
            weights: variable name -> float weights to train.
            pairs: inputs and targets of each batch.
        """
        ranges = {name: _range(self._encodings[row.name]) for name, row in block.weights.items()}
        others = [v.value for v in _others(block, self._live, weights)]
        return Task(self._trainer(block, weights), weights, (ranges, others), pairs)

    def _trainer(self, block: Block, weights: Weights) -> Trainer:
        specs = {name: self._encodings[row.name].spec for name, row in block.weights.items()}
        shapes = tuple((name, tuple(w.shape)) for name, w in weights.items())
        key = (*_kind(block, self._encodings), tuple(specs.items()), shapes)
        if key not in self._known:
            self._known[key] = self._make(block, self._live, specs, list(weights))
        return self._known[key]


@dataclass(frozen=True, eq=False)
class Task:
    """One block's training.

    Attributes:
        trainer: the compiled code of its kind.
        weights: variable name -> float weights before training.
        fixed: weight ranges by name, and the values of all other variables of the block's layers.
        pairs: inputs and targets of each batch.
    """

    trainer: Trainer
    weights: Weights
    fixed: tuple[Any, ...]
    pairs: Pairs

    def start(self) -> Any:
        """(weights, first moments, second moments, steps done) before training."""
        import tensorflow as tf

        given = {name: tf.constant(w) for name, w in self.weights.items()}
        zeros = {name: tf.zeros_like(w) for name, w in given.items()}
        return given, zeros, zeros, tf.constant(0.0)

    def epoch(self, state: Any, rates: Weights) -> Any:
        """The state after one step for each batch.

        Args:
            state: from `start` or an earlier epoch.
            rates: weight name -> learning rate, a tensor that broadcasts against the weight.
        """
        for x, y in self.pairs:
            state = self.trainer.run("step", state, rates, self.fixed, x, y)
        return state

    def error(self, state: Any) -> float:
        """Mean squared error of the block's output over all samples."""
        total = samples = 0.0
        for x, y in self.pairs:
            total += float(self.trainer.run("error", state[0], self.fixed, x, y)) * len(x)
            samples += len(x)
        return total / samples


def _kind(block: Block, encodings: Encodings) -> tuple[Any, ...]:
    """Blocks with the same one run the same code."""
    layers = [block.graph.layers[n.layer] for n in block.nodes]
    configs = [(x.cls, repr(sorted((k, v) for k, v in x.config.items() if k not in ("name", "spec")))) for x in layers]
    calls = [(repr(n.args[1:]), repr(n.kwargs)) for n in block.nodes]
    out = None if block.quantizer is None else encodings[block.quantizer.name].spec
    return tuple(configs), repr(calls), out, block.graph.values[block.nodes[0].inputs[0]].shape


def _range(params: QParams) -> tuple[Any, Any, Any]:
    import tensorflow as tf

    pos = 0.0 * params.f_min if params.pos is None else params.pos
    return tuple(tf.constant(v, tf.float32) for v in (params.f_min, params.f_max, pos))


def _others(block: Block, live: Mapping[str, Any], trained: Weights) -> list[Any]:
    """Variables of a block's layers that are not trained, in order."""
    head = variables(live[block.layer], block.graph.layers[block.layer].weights)
    skip = {id(head[name]) for name in trained}
    found = [v for n in block.nodes for v in getattr(live[n.layer], "weights", ())]
    return [v for v in found if id(v) not in skip]


class Trainer:
    """Training step and error of one kind of block, each traced once for batches of any size.

    Args:
        block: one of that kind.
        live: its live layers.
        specs: weight name -> its quantizer.
        names: of the weights to train.
    """

    def __init__(
        self, block: Block, live: Mapping[str, Any], specs: Mapping[str, QuantizerSpec], names: Sequence[str]
    ) -> None:
        self._graph, self._live, self._specs = block.graph, live, specs
        head = variables(live[block.layer], block.graph.layers[block.layer].weights)
        self._trained = {name: head[name] for name in names}
        self._others = _others(block, live, dict(self._trained))
        self._compiled: dict[str, Any] = {}

    def run(self, name: str, *args: Any) -> Any:
        """Call "error" or "step", compiled on first use."""
        if name not in self._compiled:
            import tensorflow as tf

            function = {"error": self._error, "step": self._step}[name]
            traced = tf.function(function, input_signature=_signature(args), autograph=False)
            self._compiled[name] = traced.get_concrete_function()
        return self._compiled[name](*args)

    def _error(self, weights: Weights, fixed: Any, x: Any, y: Any) -> Any:
        import tensorflow as tf

        return tf.reduce_mean(tf.square(self._output(weights, fixed, x) - y))

    def _output(self, weights: Weights, fixed: Any, x: Any) -> Any:
        import keras

        ranges, others = fixed
        values = {name: self._on_grid(name, w, ranges) for name, w in weights.items()}
        mapping = [(self._trained[name], value) for name, value in values.items()]
        mapping += list(zip(self._others, others, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return replay(self._graph, self._live, {"x": x})

    def _on_grid(self, name: str, weight: Any, ranges: Any) -> Any:
        if name not in self._specs:
            return weight
        f_min, f_max, pos = ranges[name]
        return fake_quantize(weight, self._specs[name], f_min, f_max, pos)

    def _step(self, state: Any, rates: Weights, fixed: Any, x: Any, y: Any) -> Any:
        import tensorflow as tf

        weights, *moments = state
        with tf.GradientTape() as tape:
            tape.watch(weights)
            error = self._error(weights, fixed, x, y)
        return adam(weights, tape.gradient(error, weights), moments, rates)


def _signature(args: tuple[Any, ...]) -> Any:
    """Tensor specs of (state, fixed, x, y), the number of samples left open."""
    import tensorflow as tf

    *state, x, y = args
    free = [tf.TensorSpec((None, *t.shape[1:]), t.dtype) for t in (x, y)]
    return [*tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), state), *free]


def adam(weights: Weights, gradients: Weights, moments: Sequence[Any], rates: Mapping[str, Any]) -> Any:
    """One step of Adam.

    Args:
        weights: name -> tensor.
        gradients: name -> tensor, likewise.
        moments: first moments, second moments (name -> tensor), number of steps done.
        rates: name -> learning rate, a number or a tensor that broadcasts.

    Returns:
        (weights, first moments, second moments, steps) afterwards.

    Source: Kingma and Ba 2015 (arXiv:1412.6980), algorithm 1 with the efficient order of §2.
    """
    import tensorflow as tf

    first, second, steps = moments
    steps = steps + 1.0
    scale = tf.sqrt(1.0 - _DECAY_SQUARES**steps) / (1.0 - _DECAY**steps)
    first = {k: _DECAY * first[k] + (1 - _DECAY) * g for k, g in gradients.items()}
    second = {k: _DECAY_SQUARES * second[k] + (1 - _DECAY_SQUARES) * g * g for k, g in gradients.items()}
    moved = {k: w - rates[k] * scale * first[k] / (tf.sqrt(second[k]) + _EPSILON) for k, w in weights.items()}
    return moved, first, second, steps
