"""What the user wants: the 2.5 strategy JSON, loaded, checked, changed, resolved for a layer, dumped.

    cascade      which rule wins for a layer (narrower ones, as in CSS), and who decided
    document     strategies as plain JSON: parse, JSON pointers, JSON patches
    edit         changes of a document, with who said what
    explain      why a layer has its quantizers
    fit          what a strategy says that a model does not have, or that reaches nothing there
    json_schema  the JSON Schema made from it, for editors
    rules        a document as the rules that speak for a layer
    schema       the typed form of a strategy file (pydantic)
    scope        one change for a tensor, a layer type or everything
    strategy     Strategy: load, change, resolve, dump
    validation   a strategy's form and meaning, checked without a model
    vocabulary   tables of keys, old names, normal spelling, the four built-in strategies, and differences …

No model is known here, and no TensorFlow.
"""

from vqkit.strategy.cascade import Origin, ResolvedQuantizer
from vqkit.strategy.rules import LayerRule
from vqkit.strategy.strategy import Strategy, resolve_name_or_path

__all__ = ["LayerRule", "Origin", "ResolvedQuantizer", "Strategy", "resolve_name_or_path"]
