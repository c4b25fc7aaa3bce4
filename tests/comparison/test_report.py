"""The HTML page: one file, nothing fetched, everything escaped, every link good."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support import records as make
from vqkit.comparison import leaderboard, report

EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Tags with attributes, the text of the page, and whether every tag is closed."""

    VOID = frozenset({"meta", "input", "img", "source", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    runs = tmp_path_factory.mktemp("my runs")
    made = make.example(runs)
    evil = make.record("fs", {"layer": EVIL}, sweep="quick", accuracy=0.9)
    lost = make.record(
        "fs", {"layer": EVIL, "n": 2}, status="FAILED", error={"type": "E", "message": EVIL, "cell": None}
    )
    for m in (evil, lost):
        make.add(runs, m)
    make.sweep(runs, "quick", [*made, evil, lost, make.record("fsx", {"weight_bit": 5})])
    path = report.write(runs, runs / "out" / "page.html", "quick")
    return runs, path, Page(path.read_text())


def test_the_page_is_well_formed_and_fetches_nothing(written):
    _, path, page = written
    assert page.open == []
    assert not page.all("link")
    images = [a["src"] for a in page.all("img")] + [a["srcset"] for a in page.all("source")]
    assert len(images) == 8
    assert all(src.startswith("data:image/svg+xml;base64,") for src in images)
    assert all("src" not in a for a in page.all("script"))
    assert not re.search(r"""url\(|@import|(?:src|href)=["']?(?:https?:)?//""", path.read_text())


def test_nothing_from_outside_becomes_markup(written):
    _, path, page = written
    assert len(page.all("script")) == 1
    assert "<script>alert" not in path.read_text()
    assert EVIL in "".join(page.text)


def test_every_link_leads_to_a_file(written):
    _, path, page = written
    links = [unquote(a["href"]) for a in page.all("a")]
    assert len(links) >= 5 * 3
    assert all((path.parent / link).is_file() for link in links)
    assert any(link.endswith("traceback.txt") for link in links)
    assert not any(Path(link).is_absolute() for link in links)


def test_the_page_says_what_the_text_says(written):
    _, _, page = written
    text = " ".join("".join(page.text).split())
    assert "Sweep quick" in text
    assert "5 finished, 2 failed, 1 pending" in text
    assert "Use fs weight_bit=4 weight_per_channel=true: accuracy 96.44 %" in text
    assert "StrategyError: bit_width 99 in notebook cell 3" in text
    assert "quickstart on digits, 450 samples, float 98.00 %; calibration quantized" in text
    assert len([a for a in page.all("tr") if a.get("aria-selected")]) == 1
    assert "2 variant" not in text
    assert "1 variant(s) of the sweep have not run yet" in text


def test_cells_carry_the_numbers_that_the_script_sorts_by(written):
    _, _, page = written
    values = [a["data-v"] for a in page.all("td") if "data-v" in a]
    assert "0.9733" in values
    assert "20000.0" in values


def test_the_figures_are_whole_drawings(written):
    _, _, page = written
    for image in page.all("img"):
        drawing = base64.b64decode(image["src"].partition(",")[2]).decode()
        assert drawing.rstrip().endswith("</svg>")
        assert image["alt"]


def test_the_same_records_give_the_same_page(written):
    runs, path, _ = written
    again = report.write(runs, runs / "out" / "again.html", "quick")
    assert again.read_text() == path.read_text()


def test_no_result_at_all_is_still_a_page(tmp_path):
    make.add(tmp_path, make.record(status="FAILED"))
    page = Page(report.write(tmp_path, tmp_path / "page.html").read_text())
    assert "No run has finished yet." in "".join(page.text)


def test_a_limit_says_what_it_leaves_out(tmp_path):
    make.example(tmp_path)
    page = Page(report.write(tmp_path, tmp_path / "page.html", limit=1).read_text())
    assert "… and 3 more" in "".join(page.text)


def test_missing_numbers_and_infinity_are_shown(tmp_path):
    made = make.record("fs")
    made["metrics"] |= {"sqnr_min_db": float("inf"), "seconds_total": None, "accuracy_delta": None}
    make.add(tmp_path, made)
    page = Page(report.write(tmp_path, tmp_path / "page.html").read_text())
    assert {"1e308", ""} <= {a.get("data-v") for a in page.all("td")}


def test_what_runs_note_stands_below_the_leaderboard(tmp_path):
    note = "quant_x/input: 48 % of the values lie outside the range that PERCENTILE chose <evil>"
    make.add(tmp_path, make.record("fs", notes=[note]))
    make.add(tmp_path, make.record("fsx"))
    page = report.write(tmp_path, tmp_path / "page.html").read_text()
    assert "fs: quant_x/input: 48 %" in page
    assert "&lt;evil&gt;" in page
    assert f"Noted:\n  fs: {note}" in leaderboard.render(tmp_path)
    many = make.record("fs", {"weight_bit": 4}, notes=[f"n{i}" for i in range(leaderboard.MOST_NOTES)])
    make.add(tmp_path, many)
    assert "… and 1 more" in leaderboard.render(tmp_path)
