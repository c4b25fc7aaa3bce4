"""Pictures of the widgets for the docs, taken in a real browser.

    python -m benchmarks.screenshots [--folder docs/pictures]

Run it after a change of the widgets, look at each picture, and commit those that changed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.system.browser.lab import Lab, Notebook, code_notebook, serve

ROOT = Path(__file__).resolve().parents[1]


def bench(opened: Notebook) -> None:
    """The bench at a kernel whose channels differ, in 4 bits."""
    opened.wait(".vq-bench tr[data-key='block1_dw/kernel']").click()
    opened.wait(".vq-bench img[alt^='block1_dw/kernel']")


def part(opened: Notebook) -> None:
    """The part picker with a start and an ignored layer."""
    opened.page.locator(".vq-part button:has-text('leave float')").first.click()
    opened.wait(".vq-part [data-key='head']").click()
    opened.wait(".vq-part [data-key='head'] text:has-text('ignored')")


def swept(opened: Notebook) -> None:
    """A sweep that has ended, with its best so far."""
    opened.wait(".vq-watch img")


def chosen(opened: Notebook) -> None:
    """A comparison with a run chosen by its mark."""
    opened.wait(".vq-compare circle[aria-label^='pof2s weight_bit=4']").click()
    opened.wait(".vq-compare h4:has-text('pof2s weight_bit=4')")


def asked(opened: Notebook) -> None:
    """Which layers suffer; isolated, accumulated, and the recovery."""
    opened.wait(".vq-sensitivity img[alt^='Accuracy by the number']")


SENSITIVITY = """import vqkit as vq
from vqkit.sweeps.quickstart import quickstart_model
net, images = vq.load_model(quickstart_model("../runs/cache")), vq.load_data("digits")
vq.sensitivity(net, images, bits=(4,), modes=("only", "all_but"), progress=False)"""
# In this order: the sweep is what the comparison compares.
PICTURES: dict[str, tuple[str, str, Callable[[Notebook], None], bool]] = {
    "bench": ("10_explore_a_model.ipynb", ".vq-bench", bench, False),
    "bench-dark": ("10_explore_a_model.ipynb", ".vq-bench", bench, True),
    "part": ("50_partial_model.ipynb", ".vq-part", part, False),
    "part-dark": ("50_partial_model.ipynb", ".vq-part", part, True),
    "watch": ("30_sweep.ipynb", ".vq-watch", swept, False),
    "compare": ("40_compare_runs.ipynb", ".vq-compare", chosen, False),
    "compare-dark": ("40_compare_runs.ipynb", ".vq-compare", chosen, True),
    "sensitivity-widget": ("", ".vq-sensitivity", asked, False),
}


def take(lab: Lab, name: str, folder: Path) -> Path:
    """One picture."""
    notebook, selector, prepare, dark = PICTURES[name]
    source = ROOT / "notebooks" / notebook if notebook else code_notebook(lab.root / "code.ipynb", SENSITIVITY)
    with lab.open(source, width=1640, height=2100) as opened:
        opened.dark(dark)
        opened.run_all(patience=600)
        prepare(opened)
        opened.idle()
        opened.page.mouse.move(5, 5)
        opened.page.evaluate("() => document.activeElement?.blur()")
        opened.page.wait_for_timeout(1000)
        path = folder / f"{name}.png"
        opened.page.locator(selector).first.screenshot(path=str(path))
    with Image.open(path) as picture:
        # Octree keeps few but all colours; the default would turn one marker's colour into another's.
        few = picture.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
    return path


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--only", nargs="+", choices=sorted(PICTURES), default=[*PICTURES])
    given = parser.parse_args()
    folder = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root, serve(Path(root)) as lab:
        for name in given.only:
            path = take(lab, name, folder)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
