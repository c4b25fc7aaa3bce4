"""Files made to do harm, by kind of harm and kind of file; `main` gives each to its loader.

    python -m tests.system.robustness.hostile FOLDER

prints a JSON row for each: name, error, message, growth of the process in MB.
"""

from __future__ import annotations

import io
import json
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

BIG = (40000, 5000)
SECRET = b"this belongs to somebody else, 48 bytes or more........"
KINDS = ("3.keras", "2.keras", "2.windows.keras", "2.12.keras", "3.h5", "2.h5")
Change = Callable[[h5py.File, str], None]


def _chunks(file: h5py.File, name: str, shape: tuple[int, ...], *, written: bool) -> None:
    """A compressed array of zeros; each chunk is some bytes, or not there at all."""
    chunk = (1000, 1000)[: len(shape)]
    data = file.create_dataset(name, shape, "f4", chunks=chunk, compression="gzip")
    block = zlib.compress(bytes(4 * int(np.prod(chunk))), 9)
    for at in np.ndindex(*(-(-n // c) for n, c in zip(shape, chunk, strict=True))) if written else ():
        data.id.write_direct_chunk(tuple(k * c for k, c in zip(at, chunk, strict=True)), block)


def never_written(file: h5py.File, name: str) -> None:
    del file[name]
    _chunks(file, name, BIG, written=False)


def little_never_written(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_dataset(name, (4, 3), "f4", chunks=(2, 3))


def bomb(file: h5py.File, name: str) -> None:
    del file[name]
    _chunks(file, name, BIG, written=True)


def many_bombs(file: h5py.File, _: str) -> None:
    for k in range(12):
        _chunks(file, f"other/{k}", (3000, 1000), written=True)


def wide_chunk(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_dataset(name, (4, 3), "f4", chunks=(1 << 14, 1 << 14), maxshape=(None, None), compression="gzip")


def external_storage(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_dataset(name, (4, 3), "f4", external=[(str(Path(file.attrs["secret"])), 0, 48)])


def virtual(file: h5py.File, name: str) -> None:
    del file[name]
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource(str(Path(file.attrs["secret"])), "w", (4, 3))
    file.create_virtual_dataset(name, layout)


def external_link(file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = h5py.ExternalLink(str(Path(file.attrs["secret"])), "w")


def external_group(file: h5py.File, name: str) -> None:
    """The link is some steps above the weight."""
    group = name.rpartition("/")[0]
    del file[group]
    file[group] = h5py.ExternalLink(str(Path(file.attrs["secret"])), "/")


def soft_link(file: h5py.File, name: str) -> None:
    file["elsewhere"] = h5py.ExternalLink(str(Path(file.attrs["secret"])), "w")
    del file[name]
    file[name] = h5py.SoftLink("/elsewhere")


H5: dict[str, tuple[Change, str]] = {
    "never written": (never_written, "claims"),
    "a little never written": (little_never_written, "never written"),
    "bomb": (bomb, "claims"),
    "many bombs": (many_bombs, "claims"),
    "wide chunk": (wide_chunk, "claims"),
    "external storage": (external_storage, "stored in another file"),
    "virtual": (virtual, "virtual dataset"),
    "external link": (external_link, "is a link"),
    "external group": (external_group, "is a link"),
    "soft link": (soft_link, "is a link"),
}
CONFIGS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "dense": ("Dense", {"units": 5000}, (40000,)),
    "orthogonal": ("Dense", {"units": 4000, "kernel_initializer": "orthogonal"}, (20000,)),
    "embedding": ("Embedding", {"input_dim": 10**7, "output_dim": 64}, (4,)),
    "convolution": ("Conv2D", {"filters": 2000, "kernel_size": [31, 31]}, (64, 64, 100)),
    "recurrent": ("LSTM", {"units": 9000}, (3, 5)),
    "norm": ("BatchNormalization", {}, (10**8,)),
}


def model_file(
    kind: str, folder: Path, entry: tuple[str, dict[str, Any], tuple[int, ...]], change: Change | None = None
) -> Path:
    """A file of one layer; `change` edits its weights, whose first array is named."""
    name, config, shape = entry
    layer = {"name": "d", "trainable": True, "dtype": "float32", **config}
    architecture: dict[str, Any]
    if kind.startswith("3"):
        first = {"batch_shape": [None, *shape], "dtype": "float32", "name": "in"}
        entries = [("InputLayer", first), (name, layer)]
        described = [
            {"module": "keras.layers", "class_name": c, "config": k, "registered_name": None} for c, k in entries
        ]
        architecture = {
            "module": "keras",
            "class_name": "Sequential",
            "registered_name": None,
            "config": {"name": "s", "layers": described},
        }
    else:
        architecture = {
            "class_name": "Sequential",
            "config": {
                "name": "s",
                "layers": [{"class_name": name, "config": {"batch_input_shape": [None, *shape], **layer}}],
            },
        }
    path = folder / f"m{'.h5' if kind.endswith('.h5') else '.keras'}"
    made = path if kind.endswith(".h5") else io.BytesIO()
    with h5py.File(made, "w") as file:
        first_array = _weights(file, kind)
        if change is not None:
            file.attrs["secret"] = str(folder / "secret")
            change(file, first_array)
        if kind.endswith(".h5"):
            file.attrs["keras_version"] = "3.9.0" if kind.startswith("3") else "2.15.0"
            file.attrs["model_config"] = json.dumps(architecture)
            file.attrs["backend"] = "tensorflow"
    if isinstance(made, io.BytesIO):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            version = "3.9.0" if kind.startswith("3") else "2.15.0"
            archive.writestr("metadata.json", json.dumps({"keras_version": version, "date_saved": ""}))
            archive.writestr("config.json", json.dumps(architecture))
            archive.writestr("model.weights.h5", made.getvalue())
    return path


def _weights(file: h5py.File, kind: str) -> str:
    """Weights of a Dense layer of 4 inputs and 3 outputs, in the layout of a kind; the kernel's name."""
    arrays = [np.ones((4, 3), "f4"), np.zeros(3, "f4")]
    if kind.endswith(".h5"):
        group = file.create_group("model_weights")
        group.attrs["layer_names"], inner = [b"d"], group.create_group("d")
        labels = [f"d/{n}{'' if kind.startswith('3') else ':0'}" for n in ("kernel", "bias")]
        inner.attrs["weight_names"] = [label.encode() for label in labels]
        places = [f"model_weights/d/{label}" for label in labels]
    else:
        start = {"2.windows.keras": "layers\\dense", "2.12.keras": "_layer_checkpoint_dependencies/dense"}
        places = [f"{start.get(kind, 'layers/dense')}/vars/{k}" for k in range(2)]
    for place, array in zip(places, arrays, strict=True):
        file[place] = array
    return places[0]


DENSE = ("Dense", {"units": 3}, (4,))


def zip_bomb(path: Path, member: str, content: bytes) -> None:
    """Another content of a member of an archive."""
    with zipfile.ZipFile(path) as archive:
        parts = {n: archive.read(n) for n in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**parts, member: content}.items():
            archive.writestr(name, data)


def arrays_file(folder: Path, kind: str) -> Path:
    """A data file whose array claims more than it should."""
    path, header = folder / "d.npz", io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": BIG})
    bodies = {"bomb": bytes(4 * BIG[0] * BIG[1] // 4), "header": bytes(100)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x_calib", "x_eval", "y_eval"):
            archive.writestr(f"{name}.npy", header.getvalue() + (bodies[kind] if name == "x_calib" else b""))
    return path


def cases(folder: Path) -> list[tuple[str, str, Callable[[], Any]]]:
    """Name, word of the message, and what gives the file to its loader."""
    from vqkit.models import load_model
    from vqkit.sweeps.source import load_data

    found: list[tuple[str, str, Callable[[], Any]]] = []

    def case(name: str, says: str, make: Callable[[Path], Path], load: Callable[[Path], Any] = load_model) -> None:
        place = folder / name.replace(" ", "_").replace(":", "").replace("/", "_")
        place.mkdir()
        (place / "secret").write_bytes(SECRET)
        path = make(place)
        assert path.stat().st_size <= 1 << 20, f"{name}: {path.stat().st_size} bytes"
        found.append((name, says, lambda: load(path)))

    for kind in KINDS:
        for what, (change, says) in H5.items():
            if what == "external group" and kind == "2.windows.keras":
                continue  # There is no group above.
            case(f"{kind}: {what}", says, lambda p, k=kind, c=change: model_file(k, p, DENSE, c))
        for what, entry in CONFIGS.items():
            case(
                f"{kind}: configuration of {what}",
                "configuration",
                lambda p, k=kind, e=entry: model_file(k, p, e),
            )
    zeros, brackets = bytes(150 << 20), b"[" + b"[]," * (12 << 20) + b"[]]"
    for kind in ("3.keras", "2.keras"):
        for member, content in (
            ("model.weights.h5", zeros),
            ("assets/a.txt", zeros),
            ("config.json", brackets),
        ):

            def make(p: Path, k: str = kind, m: str = member, c: bytes = content) -> Path:
                path = model_file(k, p, DENSE)
                zip_bomb(path, m, c)
                return path

            case(f"{kind}: unpacked {member}", "claims", make)
    for what in ("bomb", "header"):
        case(
            f"npz: {what}",
            "claims",
            lambda p, w=what: arrays_file(p, w),
            lambda p: load_data({"npz": str(p)}),
        )
    return found


def memory() -> float:
    """Most that the process held since the last call, in MB; then it is counted anew."""
    with open("/proc/self/status", encoding="ascii") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return peak / 1024


def main(folder: Path) -> None:
    """Print a row for each case."""
    import vqkit
    from vqkit.models import load_model

    load_model(model_file("3.keras", folder, DENSE))
    for kind in KINDS:
        place = folder / f"sound.{kind}"
        place.mkdir()
        assert load_model(model_file(kind, place, DENSE)).layers[-1].get_weights()[0].sum() == 12
    memory()
    before = memory()
    taken = np.ones(12 << 20)
    assert 90 < memory() - before < 110, "what is measured is not the memory"
    del taken
    made = cases(folder)
    for name, says, load in made:
        memory()
        before = memory()
        try:
            row = ["accepted", repr(load())[:100]]
        except vqkit.VqkitError as error:
            row = [type(error).__name__, str(error)]
        except Exception as error:
            row = [f"raw {type(error).__name__}", str(error)[:300]]
        print(json.dumps([name, says, *row, memory() - before]), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
