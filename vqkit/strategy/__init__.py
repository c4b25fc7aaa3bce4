"""What the user wants: the 2.5 strategy JSON, loaded, checked, changed, resolved for a layer, dumped."""

from vqkit.strategy.resolve import Origin, ResolvedQuantizer
from vqkit.strategy.rules import LayerRule
from vqkit.strategy.strategy import Strategy, resolve_name_or_path

__all__ = ["LayerRule", "Origin", "ResolvedQuantizer", "Strategy", "resolve_name_or_path"]
