"""The command line: gathers values, calls one function, prints what it returns.

Exit codes: 0 everything went well; 1 some variant failed or was killed; 2 the command, a file, a model or
data is not valid, and nothing was run; 3 runs went well but the tracking store refused; 4 a bug in vqkit
(with traceback); 130 interrupted.
"""

from vqkit.cli.application import Exit, app, main

# In the order in which `vqkit --help` lists their commands.
# isort: off
from vqkit.cli import runs, strategies, compare, doctor, export, serve
from vqkit.cli import search

__all__ = ["Exit", "app", "compare", "doctor", "export", "main", "runs", "search", "serve", "strategies"]
