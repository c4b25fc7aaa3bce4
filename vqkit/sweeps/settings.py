"""How a variant is measured, apart from its strategy: every setting is described here, once.

From `Settings` follow the keys of a sweep file and what they may be (`spec.SettingsSpec`), the options of `vqkit run`
(`cli.application.with_settings`), the run's key and the inputs of its record (`variant.Variant`), and what the run
notebook is given. Nothing but the standard library is needed, so that the command line starts at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


def setting(default: Any, told: str, *, option: bool = True, **bounds: float) -> Any:
    """A field of `Settings`.

    Args:
        default: its value where nobody says anything; JSON.
        told: what it means, as in docs/sweep.md and in the help of `vqkit run`.
        option: whether `vqkit run` has an option of its name.
        bounds: least and largest value, as pydantic's `Field` takes them: ge, gt, le, lt.
    """
    return field(default=default, metadata={"told": told, "option": option, "bounds": bounds})


# A new setting goes to the end: copies of the first run notebook give theirs by position.
@dataclass(frozen=True)
class Settings:
    """How a variant is measured; docs/sweep.md says what each setting means.

    Attributes:
        seed: set before the model is loaded.
        calibration: "quantized" is the reference's way.
        vitis_compat: reproduce the reference's defects.
        batch_size: positions depend on it.
        steps: calibration batches; None means all.
        sqnr_images: evaluation samples for the signal-to-noise ratios.
        eval_images: evaluation samples for the accuracy; None means all.
        qat: how the variant is trained, the values of a `QatSpec`; None for post-training quantization.
        metrics: what `vqkit.evaluate` takes as JSON, the deciding one first; None means the task's own.

    Example:
        >>> import vqkit
        >>> vqkit.Settings(calibration="float", steps=4).batch_size
        32
    """

    seed: int = setting(0, "for Python, numpy and TensorFlow, and for drawing random variants", ge=0, lt=2**32)
    calibration: Literal["quantized", "float"] = setting(
        "quantized",
        "`quantized`: each tensor is observed behind quantized layers, as it will run; `float`: on the float model. "
        "A comparison never ranks across the two",
    )
    vitis_compat: bool = setting(False, "reproduce the original quantizer's mistakes")
    batch_size: int = setting(32, "calibration images per batch; a model's fixed batch size goes before", ge=1)
    steps: int | None = setting(None, "calibration batches; null means all", ge=1)
    sqnr_images: int = setting(100, "images for the noise figures", ge=1)
    eval_images: int | None = setting(
        None, "evaluation images that count: a random choice that the number alone decides; null means all", ge=1
    )
    qat: Mapping[str, Any] | None = setting(
        None, "train each variant with its quantization in place, below; null means not", option=False
    )
    metrics: Sequence[Any] | None = setting(
        None, "what runs are judged by, the deciding metric first; null: what outputs and labels tell", option=False
    )

    def set_seeds(self) -> None:
        """Seed Python, numpy and TensorFlow."""
        from vqkit.environment import load_tensorflow

        load_tensorflow()
        import keras

        keras.utils.set_random_seed(self.seed)

    @property
    def for_quantize(self) -> dict[str, Any]:
        """The keyword arguments of `vqkit.quantize` among them."""
        names = ("batch_size", "steps", "calibration", "vitis_compat")
        return {name: getattr(self, name) for name in names}
