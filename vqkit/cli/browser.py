"""Opens a page once its server answers; a process of its own, because the command becomes the server.

`python -m vqkit.cli.browser HOST PORT`, with the address, which may carry a token, in `VQKIT_ADDRESS`: other
users of the machine can read a command line.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import webbrowser

ADDRESS = "VQKIT_ADDRESS"
_TRIES = 600
_PAUSE = 0.1


def start(address: str, host: str, port: int) -> None:
    """Start the process that will open a page.

    Args:
        address: of the page.
        host: that will listen.
        port: on which it will.
    """
    command = [sys.executable, "-m", __name__, host, str(port)]
    subprocess.Popen(command, env={**os.environ, ADDRESS: address})


def open_when_it_answers(address: str, host: str, port: int) -> bool:
    """Wait a minute for the server at most; returns whether the page was opened.

    Args:
        address: of the page.
        host: that will listen.
        port: on which it will.
    """
    for _ in range(_TRIES):
        try:
            socket.create_connection((host, port), 1).close()
        except OSError:
            time.sleep(_PAUSE)
        else:
            return webbrowser.open(address)
    return False


if __name__ == "__main__":
    open_when_it_answers(os.environ[ADDRESS], sys.argv[1], int(sys.argv[2]))
