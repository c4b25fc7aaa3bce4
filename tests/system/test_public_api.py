"""What `import vqkit` offers is listed in a file, so that no name comes or goes unnoticed."""

from __future__ import annotations

from pathlib import Path

import vqkit

LISTED = Path(__file__).parent / "public_api.txt"


def test_the_public_names_are_those_listed():
    """A name that is to go stays for two minor versions with a DeprecationWarning; then edit the list."""
    listed = LISTED.read_text("utf-8").split()
    assert sorted(vqkit.__all__) == listed
    assert len(set(listed)) == len(listed)


def test_every_public_name_can_be_had_and_says_what_it_is():
    silent = [n for n in vqkit.__all__ if n != "__version__" and not getattr(vqkit, n).__doc__]
    assert silent == []
