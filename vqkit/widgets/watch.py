"""`vq.watch`: a sweep while it runs; and the dashboard."""

from __future__ import annotations

import threading
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from vqkit import plots, tables
from vqkit.comparison.leaderboard import leaderboard
from vqkit.comparison.page import figure_html, message_html, page
from vqkit.errors import RecordError, VqkitError
from vqkit.execution.background import Running, SweepProgress, cancel, error_of, seconds_since, standing
from vqkit.files import read_text
from vqkit.runs.records import to_frame
from vqkit.runs.store import RunRecord, Status, Store
from vqkit.widgets.compare import compare
from vqkit.widgets.elements import Action, SerialHandler, actions, mimebundle, picker, queue

INTERVAL = 1.0
_SHOWN = 8
_TRACEBACK = "traceback.txt"


def watch(sweep: Running | str, runs: str | Path = "runs", *, interval: float = INTERVAL) -> Watch:
    """Watch a sweep while it runs: progress, best so far, failures with tracebacks, and a way to stop it.

    Args:
        sweep: from `start_sweep`, or the name of a sweep that any process of this machine runs.
        runs: the folder of runs, where `sweep` is a name.
        interval: seconds between two looks at the records.

    Returns:
        A widget; in an executed or exported notebook it is the sweep as it stood then.

    Raises:
        RecordError: no such sweep.

    Example:
        >>> import keras, numpy as np, vqkit
        >>> keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save("net.keras")
        >>> x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
        >>> np.savez("data.npz", x_calib=x, x_eval=x, y_eval=np.arange(16) % 3)
        >>> sweep = {"name": "bits", "model": "net.keras", "data": {"npz": "data.npz"}, "axes": {"weight_bit": [8]}}
        >>> running = vqkit.start_sweep(sweep, "runs", track=False)
        >>> view = vqkit.watch(running)  # the last line of a cell shows it
        >>> outcome = running.wait()
    """
    if isinstance(sweep, Running):
        return Watch(sweep.name, sweep.runs, sweep, interval)
    standing(runs, sweep)
    return Watch(sweep, Path(runs), None, interval)


class Watch:
    """A running sweep; reads the records and holds no state of its own.

    Args:
        name: of the sweep.
        runs: the folder of runs.
        running: the process that this one started.
        interval: seconds between two looks.
    """

    def __init__(self, name: str, runs: Path, running: Running | None, interval: float) -> None:
        self.name, self.runs, self._running, self._interval = name, runs, running, interval
        self._theme = plots.LIGHT
        self._said = ""
        self._drawn: tuple[int, bool] | None = None
        self._stop = threading.Event()
        self._lock = threading.RLock()

    def standing(self) -> SweepProgress | None:
        """Where the sweep stands; None while it is still being checked."""
        try:
            return standing(self.runs, self.name)
        except RecordError:
            return None

    def html(self) -> str:
        """Everything as one static page."""
        now = self.standing()
        return page(self._head(now), self._failures(now), self._picture(now))

    def __str__(self) -> str:
        now = self.standing()
        return str(now) if now is not None else f"{self.name}: {self._starting()}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return mimebundle(self.widget, self.html(), str(self))

    def close(self) -> None:
        """Look no more; the sweep goes on."""
        self._stop.set()

    def cancel(self) -> None:
        """Stop the sweep; variants that have finished keep their results."""
        try:
            self._said = message_html(f"cancelled: {cancel(self.runs, self.name).line()}", "done")
        except VqkitError as e:
            self._said = message_html(str(e), "error")
        self.show()

    def show(self) -> bool:
        """Look and draw.

        Returns:
            Whether there may be something new later.
        """
        with self._lock:  # a thread looks, and so does a person
            return self._show()

    def _show(self) -> bool:
        now = self.standing()
        live = self._live(now)
        self._cancel.disabled = [] if live else ["cancel-the-sweep"]
        if now is not None:
            self._bar.max, self._bar.value = max(1, len(now.records)), now.ended
            self._bar.description = f"{now.ended} of {len(now.records)}"
        self._top.value = page(self._head(now))
        self._bottom.value = page(self._failures(now))
        drawn = (now.ended if now is not None else -1, self._theme is plots.DARK)
        if drawn != self._drawn:
            self._figure.html, self._drawn = self._picture(now), drawn
        return live

    @cached_property
    def widget(self) -> Any:
        """The ipywidget; made on first use, and kept up to date by a thread until the sweep ends."""
        import ipywidgets as w

        self._top, self._bottom = w.HTML(), w.HTML()
        self._bar = w.IntProgress(value=0, max=1, layout=w.Layout(width="100%"))
        self._bar.tooltip = f"Variants of {self.name} that have ended"
        line = queue(SerialHandler(lambda text: setattr(self, "_said", message_html(text, "error"))))

        def cancel(_: str) -> None:
            threading.Thread(target=self.cancel, daemon=True).start()  # it waits for the sweep to end

        self._figure = picker(line, label="Accuracy against size so far")
        self._figure.observe(self._themed, "dark")
        self._cancel = actions(line, Action("Cancel the sweep", "Stop the sweep; results stay", cancel, "stop"))
        box = w.VBox([self._bar, self._top, self._cancel, self._bottom, self._figure])
        box.add_class("vq-widget")
        box.add_class("vq-watch")
        if self.show():
            threading.Thread(target=self._follow, daemon=True, name=f"watch {self.name}").start()
        return box

    def _follow(self) -> None:
        while not self._stop.wait(self._interval):
            if not self.show():
                return

    def _themed(self, change: dict[str, Any]) -> None:
        self._theme = plots.DARK if change["new"] else plots.LIGHT
        self.show()

    def _live(self, now: SweepProgress | None) -> bool:
        if self._running is not None:
            return self._running.process.poll() is None
        return now is not None and now.pid is not None

    def _starting(self) -> str:
        if self._running is None:
            return "there is no such sweep"
        code = self._running.process.poll()
        return (
            "starting: every variant is checked before the first one runs"
            if code is None
            else (f"could not start: {self._running.log()[-2000:].strip()}")
        )

    def _head(self, now: SweepProgress | None) -> str:
        title = f"<p><b>{escape(self.name)}</b></p>"
        if now is None:
            dead = self._running is None or self._running.process.poll() is not None
            return title + message_html(self._starting(), "error" if dead else "")
        return f"{title}<p>{escape(now.line())}</p>{_best(now)}{_at_work(now)}{self._said}"

    def _failures(self, now: SweepProgress | None) -> str:
        if now is None or not now.lost:
            return ""
        parts = [_failure(self.runs, record) for record in now.lost[:_SHOWN]]
        more = len(now.lost) - _SHOWN
        if more > 0:
            parts.append(f"<p>… and {more} more</p>")
        return f"<p><b>{len(now.lost)} without a result</b></p>{''.join(parts)}"

    def _picture(self, now: SweepProgress | None) -> str:
        if now is None or now.best is None:
            return ""
        frame = leaderboard(to_frame(r for r in now.records if r.status is not Status.RUNNING))
        figure = plots.pareto(frame[frame["group"] == frame["group"].min()], theme=self._theme)
        name = now.best.measure.name.capitalize()
        return figure_html(figure, f"{name} against size of the variants of {self.name} so far")


def _best(now: SweepProgress) -> str:
    best = now.best
    if best is None:
        return "<p>Best so far: none has finished.</p>"
    found = best.metrics
    size = f", {tables.size(found['size_bytes'])}" if "size_bytes" in found else ""
    measure = best.measure
    against = found.get(f"{measure.name}_delta")
    delta = "" if against is None else f" ({measure.difference(against)})"
    value = escape(f"{measure.name} {measure.text(found[measure.name])}")
    return f"<p>Best so far: <b>{escape(best.name)}</b>, {value}{delta}{size}.</p>"


def _at_work(now: SweepProgress) -> str:
    said = [f"{escape(r.name)} (since {tables.duration(max(0.0, seconds_since(r.started)))})" for r in now.running]
    return f"<p>At work: {', '.join(said)}.</p>" if said else ""


def _failure(runs: Path, record: RunRecord) -> str:
    line = f"{record.status}  {record.name}: {error_of(record)}"
    path = Path(runs, "variants", record.key, _TRACEBACK)
    if not path.exists():
        return f"<p>{escape(line)}</p>"
    told = read_text(path, most=20_000)
    return f"<details><summary>{escape(line)}</summary><pre>{escape(told)}</pre></details>"


_ALL = "all runs"


def dashboard(runs: str | Path = "runs") -> Any:
    """A page with a choice of sweep, its comparison, and its progress while it runs.

    Args:
        runs: the folder of runs.

    Returns:
        An ipywidget.
    """
    import ipywidgets as w

    store = Store(Path(runs))
    choice = w.Dropdown(description="Sweep", options=[(_ALL, ""), *((n, n) for n in store.sweeps())])
    again = w.Button(description="Look again", tooltip="Look for new sweeps and runs")
    place = w.VBox()
    shown: list[Watch] = []

    def show(_: Any = None) -> None:
        for old in shown:
            old.close()
        shown.clear()
        parts = [_part(lambda: compare(runs, choice.value).widget)]
        if choice.value:
            found = watch(choice.value, runs)
            shown.append(found)
            parts.append(_part(lambda: found.widget))
        place.children = [w.Tab(parts, titles=("Compare", "Watch")[: len(parts)])]

    def look(_: Any) -> None:
        now = choice.value
        choice.options = [(_ALL, ""), *((n, n) for n in store.sweeps())]
        choice.value = now
        show()

    choice.observe(show, "value")
    again.on_click(look)
    show()
    return w.VBox([w.HBox([choice, again]), place])


def _part(make: Any) -> Any:
    import ipywidgets as w

    try:
        return make()
    except VqkitError as e:
        return w.HTML(message_html(str(e), "error"))
