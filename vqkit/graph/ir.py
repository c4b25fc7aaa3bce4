"""The working form of a model: a flat list of operations on numbered values.

A Keras model is lowered to it once, passes rewrite it, and it is raised back to a Keras model at the end
(`keras_io`). Nothing here imports Keras, and weights are plain numpy arrays that belong to the graph, so no
pass can reach into the user's model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for value number `id` inside the arguments of a node."""

    id: int


@dataclass(frozen=True, eq=False)
class Layer:
    """One operation, callable from several nodes.

    Attributes:
        name: unique in the graph.
        cls: the Keras layer or operation class.
        config: what `cls.from_config` needs.
        weights: variable name -> float32 array, in the layer's order.
        build: the layer's build config (input shapes); None when it needs no building.
        called: arguments of its first call, `Value` where a tensor stood, if only a call can build it.
        source: the object it was read from; only read.
        is_op: a stateless Keras operation rather than a layer.
        read: the configuration as it was read; None for a layer that a pass made.
        saved: what it writes of itself beyond configuration and weights (`state.Saved`).
    """

    name: str
    cls: type
    config: Mapping[str, Any]
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    build: Mapping[str, Any] | None = None
    called: Any = None
    source: Any = None
    is_op: bool = False
    read: Mapping[str, Any] | None = None
    saved: Any = None

    @property
    def state(self) -> str:
        """Digest of what it holds beyond configuration and weights; "" for nothing."""
        return "" if self.saved is None else str(self.saved.digest)

    @property
    def kind(self) -> str:
        """What the strategy's registry calls the layer; operations that are no layers read `op:<Class>`."""
        name = getattr(self.cls, "registry_kind", self.cls.__name__)
        return f"op:{name}" if self.is_op else name

    def with_(self, *, config: Mapping[str, Any] | None = None, **changes: Any) -> Layer:
        """A copy with `config` merged in and other attributes replaced."""
        merged = {**self.config, **(config or {})}
        return replace(self, config=merged, **changes)


@dataclass(frozen=True, eq=False)
class Node:
    """One call of a layer.

    Attributes:
        name: unique in the graph; the layer's name for its first call, `<layer>@2` for the second.
        layer: name of the called layer.
        args: positional arguments, `Ref` where a value stands.
        kwargs: keyword arguments, likewise.
        outputs: ids of the values it makes.
        origin: names of the user's layers this node came from.
    """

    name: str
    layer: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[int, ...]
    origin: tuple[str, ...] = ()

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Ids of the values it reads, in order of appearance; every change of a graph asks every node."""
        return tuple(r.id for r in refs((self.args, dict(self.kwargs))))

    @property
    def output(self) -> int:
        """Id of its first output."""
        return self.outputs[0]


@dataclass(frozen=True, slots=True)
class Value:
    """Shape (None where free, batch first) and dtype of one value."""

    shape: tuple[int | None, ...]
    dtype: str


def refs(structure: Any) -> Iterator[Ref]:
    """The references inside nested tuples, lists and dicts, in order."""
    if isinstance(structure, Ref):
        yield structure
    elif isinstance(structure, Mapping):
        for item in structure.values():
            yield from refs(item)
    elif isinstance(structure, (list, tuple)):
        for item in structure:
            yield from refs(item)


def map_refs(fn: Callable[[Ref], Any], structure: Any) -> Any:
    """The same nesting with each reference replaced by `fn(reference)`."""
    if isinstance(structure, Ref):
        return fn(structure)
    if isinstance(structure, Mapping):
        return {k: map_refs(fn, v) for k, v in structure.items()}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(map_refs(fn, v) for v in structure))
    if isinstance(structure, (list, tuple)):
        return type(structure)(map_refs(fn, v) for v in structure)
    return structure


def in_scopes(name: str) -> str:
    """A name of characters that TensorFlow takes in a graph."""
    return re.sub(r"[^A-Za-z0-9_.>-]", "_", name) or "_"


@dataclass(eq=False)
class Graph:
    """A model as operations on numbered values.

    Attributes:
        name: the model's name.
        inputs: input name -> value id, in the model's order.
        input_struct: nesting of the model's inputs, `Ref` leaves.
        output_struct: nesting of the model's outputs, `Ref` leaves.
        nodes: in topological order.
        layers: layer name -> layer.
        values: value id -> shape and dtype.
        candidates: node names that may be optimized and quantized; None means all.
        ignored: node names among them that were optimized and stay float.
        notes: what reading the model had to change, for people.
    """

    name: str
    inputs: dict[str, int]
    input_struct: Any
    output_struct: Any
    nodes: list[Node] = field(default_factory=list)
    layers: dict[str, Layer] = field(default_factory=dict)
    values: dict[int, Value] = field(default_factory=dict)
    candidates: set[str] | None = None
    ignored: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def copy(self) -> Graph:
        """An independent graph; the (immutable) nodes, layers and arrays are shared."""
        return Graph(
            self.name,
            dict(self.inputs),
            self.input_struct,
            self.output_struct,
            list(self.nodes),
            dict(self.layers),
            dict(self.values),
            None if self.candidates is None else set(self.candidates),
            self.ignored,
            self.notes,
        )

    # --- reading ---

    def layer_of(self, node: Node) -> Layer:
        """The layer that a node calls."""
        return self.layers[node.layer]

    def kind(self, node: Node) -> str:
        """Class name of the node's layer."""
        return self.layers[node.layer].kind

    @property
    def outputs(self) -> tuple[int, ...]:
        """Ids of the model's outputs."""
        return tuple(r.id for r in refs(self.output_struct))

    def node(self, name: str) -> Node:
        """The node of that name; KeyError when there is none."""
        return next(n for n in self.nodes if n.name == name) if self.has(name) else _missing(name)

    def has(self, name: str) -> bool:
        """Whether a node has that name."""
        return any(n.name == name for n in self.nodes)

    def producers(self) -> dict[int, Node]:
        """Value id -> the node that makes it (model inputs are absent)."""
        return {v: n for n in self.nodes for v in n.outputs}

    def consumers(self) -> dict[int, list[Node]]:
        """Value id -> the nodes that read it, in graph order."""
        found: dict[int, list[Node]] = {v: [] for v in self.values}
        for node in self.nodes:
            for v in dict.fromkeys(node.inputs):
                found[v].append(node)
        return found

    def calls(self) -> dict[str, int]:
        """Layer name -> number of nodes that call it."""
        count: dict[str, int] = dict.fromkeys(self.layers, 0)
        for node in self.nodes:
            count[node.layer] += 1
        return count

    def is_candidate(self, node: Node) -> bool:
        """Whether the node may be optimized and quantized."""
        return self.candidates is None or node.name in self.candidates

    # --- writing ---

    def new_value(self, like: int) -> int:
        """A fresh value id with the shape and dtype of another."""
        fresh = max(self.values, default=-1) + 1
        self.values[fresh] = self.values[like]
        return fresh

    def unique(self, name: str, others: Iterable[str] = ()) -> str:
        """`name` as TensorFlow takes it, or `name_1`, `name_2`, … where it is taken, or one of others."""
        taken = set(self.layers) | {n.name for n in self.nodes} | set(self.inputs) | set(others)
        name = in_scopes(name)
        candidate, k = name, 0
        while candidate in taken:
            k += 1
            candidate = f"{name}_{k}"
        return candidate

    def replace_node(self, old: Node, *new: Node) -> None:
        """Put `new` where `old` stood; candidates follow."""
        at = self.nodes.index(old)
        self.nodes[at : at + 1] = new
        if self.candidates is not None and old.name in self.candidates:
            self.candidates.update(n.name for n in new)

    def update(self, old: Node, **changes: Any) -> Node:
        """Replace attributes of a node in place of the old one."""
        new = replace(old, **changes)
        self.replace_node(old, new)
        return new

    def redirect(self, old: int, new: int, *, only: set[str] | None = None) -> None:
        """Let readers of value `old` (all, or the nodes named in `only`) read `new` instead."""

        def swap(r: Ref) -> Ref:
            return Ref(new) if r.id == old else r

        for i, n in enumerate(self.nodes):
            if old in n.inputs and (only is None or n.name in only) and new not in n.outputs:
                self.nodes[i] = replace(n, args=map_refs(swap, n.args), kwargs=map_refs(swap, dict(n.kwargs)))
        if only is None:
            self.output_struct = map_refs(swap, self.output_struct)

    def bypass(self, node: Node) -> None:
        """Remove a node with one input: its readers read its input."""
        (source,) = set(node.inputs)
        self.nodes.remove(node)
        for v in node.outputs:
            self.redirect(v, source)
        self.drop_unused_layers()

    def insert_after(
        self, value: int, layer: Layer, *, only: set[str] | None = None, origin: tuple[str, ...] = ()
    ) -> Node:
        """Put a one-input layer behind a value; all (or the named) readers then read its output."""
        out = self.new_value(value)
        self.layers[layer.name] = layer
        self.redirect(value, out, only=only)
        node = Node(layer.name, layer.name, (Ref(value),), {}, (out,), origin)
        self.nodes.insert(self._after(value), node)
        return node

    def _after(self, value: int) -> int:
        return next((i + 1 for i, n in enumerate(self.nodes) if value in n.outputs), 0)

    def drop_unused_layers(self) -> None:
        """Forget layers that no node calls and values that nothing makes or reads."""
        used = {n.layer for n in self.nodes}
        self.layers = {k: v for k, v in self.layers.items() if k in used}
        alive = set(self.inputs.values()) | {v for n in self.nodes for v in n.outputs}
        self.values = {k: v for k, v in self.values.items() if k in alive}

    def prune(self) -> None:
        """Remove nodes whose values reach no output."""
        needed = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if needed & set(node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]
        self.drop_unused_layers()


def _missing(name: str) -> Node:
    raise KeyError(name)
