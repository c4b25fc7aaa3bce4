"""Pictures of the widgets for the docs, taken in a real browser.

    python -m benchmarks.screenshots [--folder docs/pictures]

Run it after a change of the widgets, look at each picture, and commit those that changed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image

from tests.browser.lab import Lab, Notebook, serve

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


PICTURES = {
    "bench": ("10_explore_a_model.ipynb", ".vq-bench", bench, False),
    "bench-dark": ("10_explore_a_model.ipynb", ".vq-bench", bench, True),
    "part": ("50_partial_model.ipynb", ".vq-part", part, False),
}


def take(lab: Lab, name: str, folder: Path) -> Path:
    """One picture."""
    notebook, selector, prepare, dark = PICTURES[name]
    with lab.open(ROOT / "notebooks" / notebook, width=1640, height=1500) as opened:
        if dark:
            opened.dark()
        opened.run_all()
        prepare(opened)
        opened.idle()
        opened.page.mouse.move(5, 5)
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "pictures")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root, serve(Path(root)) as lab:
        for name in PICTURES:
            path = take(lab, name, folder)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
