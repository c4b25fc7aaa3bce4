"""Conditions between the axes of a sweep, written as expressions: `weight_bit > activation_bit`.

The grammar is Python's, of which comparisons, `in`, `and`, `or`, `not`, names of axes, numbers, texts, true, false,
null and lists are taken; nothing is called or evaluated by Python.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vqkit.errors import SweepError, not_allowed

_ORDER: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_WORDS = {"true": True, "false": False, "null": None}
_LONGEST = 2000


@dataclass(frozen=True)
class Condition:
    """An expression over the axes of a sweep.

    Attributes:
        text: as it was written.
        tree: parsed.
        names: the axes that it speaks of.

    Example:
        >>> Condition.parse("weight_bit > activation_bit").holds({"weight_bit": 8, "activation_bit": 4})
        True
    """

    text: str
    tree: ast.expr
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Condition:
        """The condition that a text states.

        Args:
            text: such as `strategy == "fsx" and weight_bit in [4, 3]`; an axis that is no word, as a JSON pointer, is
                written in backquotes.

        Raises:
            SweepError: it cannot be read; the message quotes it.
        """
        if len(text) > _LONGEST:
            raise SweepError(f"condition of {len(text)} characters: at most {_LONGEST}")
        pieces = text.split("`")
        if len(pieces) % 2 == 0:
            raise SweepError(f"condition {text!r}: a backquote is not closed")
        quoted = pieces[1::2]
        plain = "".join(f" __{i // 2}__ " if i % 2 else piece for i, piece in enumerate(pieces))
        try:
            tree = ast.parse(plain.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
            raise SweepError(f"condition {text!r} cannot be read: {getattr(e, 'msg', None) or e}") from None
        places = {f"__{i}__": name for i, name in enumerate(quoted)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                node.id = places.get(node.id, node.id)
        names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id not in _WORDS]
        found = cls(text, tree, tuple(dict.fromkeys(names)))
        found._check(tree)
        if not names:
            raise SweepError(f"condition {text!r} names no axis, so it is the same for all variants")
        return found

    def holds(self, point: Mapping[str, Any]) -> bool:
        """Whether a point fulfils it; an axis that the point does not name is null.

        Args:
            point: axis -> value.

        Raises:
            SweepError: two values that have no order are compared by it.
        """
        return bool(self._value(self.tree, point))

    def _check(self, node: ast.AST) -> None:
        allowed = (ast.BoolOp, ast.Compare, ast.Name, ast.Constant, ast.List, ast.Tuple, ast.UnaryOp)
        if not isinstance(node, allowed) or (
            isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not | ast.USub)
        ):
            raise SweepError(
                f"condition {self.text!r}: {ast.unparse(node)} is not allowed: comparisons of axes, numbers, texts and "
                "lists by <, <=, >, >=, ==, !=, in, and, or, not"
            )
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
            raise SweepError(f"condition {self.text!r}: 'is' is not allowed; equal is ==")
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._check(child)

    def _value(self, node: ast.expr, point: Mapping[str, Any]) -> Any:
        match node:
            case ast.BoolOp(op=ast.And()):
                return all(self._value(v, point) for v in node.values)
            case ast.BoolOp():
                return any(self._value(v, point) for v in node.values)
            case ast.UnaryOp(op=ast.Not()):
                return not self._value(node.operand, point)
            case ast.UnaryOp():
                return self._negative(self._value(node.operand, point))
            case ast.Compare():
                values = [self._value(v, point) for v in (node.left, *node.comparators)]
                pairs = zip(values, node.ops, values[1:], strict=False)
                return all(self._compared(a, op, b) for a, op, b in pairs)
            case ast.List() | ast.Tuple():
                return [self._value(v, point) for v in node.elts]
            case ast.Name():
                return _WORDS[node.id] if node.id in _WORDS else point.get(node.id)
            case ast.Constant():
                return node.value
        raise AssertionError(node)

    def _negative(self, value: Any) -> Any:
        if not _is_number(value):
            raise SweepError(f"condition {self.text!r}: {value!r} has no negative")
        return -value

    def _compared(self, a: Any, op: ast.cmpop, b: Any) -> bool:
        if isinstance(op, ast.Eq | ast.NotEq):
            return _same(a, b) == isinstance(op, ast.Eq)
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(b, list | str) or (isinstance(b, str) and not isinstance(a, str)):
                raise SweepError(f"condition {self.text!r}: {a!r} cannot be in {b!r}")
            inside = a in b if isinstance(b, str) else any(_same(a, v) for v in b)
            return inside == isinstance(op, ast.In)
        if a is None or b is None:
            # An axis that a point leaves as the base has it has no known size.
            return False
        if not (_is_number(a) and _is_number(b)) and not (isinstance(a, str) and isinstance(b, str)):
            raise SweepError(f"condition {self.text!r}: {a!r} and {b!r} have no order")
        return _ORDER[type(op)](a, b)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(a: Any, b: Any) -> bool:
    # True == 1 in Python, but not in a sweep file.
    return type(a) is type(b) and a == b if isinstance(a, bool) or isinstance(b, bool) else a == b


def conditions(texts: Mapping[str, str], axes: Mapping[str, Any], source: str) -> dict[str, Condition]:
    """Parsed conditions, each over axes that there are.

    Args:
        texts: where it stands in the file -> the expression.
        axes: the axes of the sweep.
        source: the file's name, for messages.

    Raises:
        SweepError: one cannot be read, or names what is no axis.
    """
    found = {}
    for where, text in texts.items():
        try:
            found[where] = Condition.parse(text)
        except SweepError as e:
            raise SweepError(f"{source} {where}: {e}") from None
        for name in found[where].names:
            if name not in axes:
                raise SweepError(not_allowed(f"{source} {where}", name, list(axes), what="axis"))
    return found
