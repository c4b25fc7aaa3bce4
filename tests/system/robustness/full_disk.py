"""A sweep on a small disk that fills up, in a name space of its own: `python -m … FOLDER FREE_KB`.

The disk is gone when the process ends, so everything is checked in here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.system.robustness.scene import Scene, variants


def fill(path: Path, free_kb: int) -> None:
    """Take all room of the disk but for some KB."""
    room = os.statvfs(path.parent)
    with open(path, "wb") as f:
        try:
            for _ in range(room.f_bavail - free_kb * 1024 // room.f_bsize):
                f.write(b"x" * room.f_bsize)
                f.flush()
        except OSError:
            assert free_kb == 0


def main(folder: Path, free_kb: int) -> None:
    """Fill up, sweep, check; make room, sweep, check."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    scene = Scene(folder)
    wanted = variants("ab", 0.0)
    code, told = scene.run(wanted[:1])
    assert code == 0, told
    fill(folder / "ballast", free_kb)
    code, told = scene.run(wanted)
    print(free_kb, "KB free: exit code", code, told)
    assert code != 0
    (folder / "ballast").unlink()
    scene.check(whole=False)
    scene.repaired(wanted, retry_failed=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
