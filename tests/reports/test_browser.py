"""The page in a browser: no errors in its console, every figure drawn, nothing wider than a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import made_reports as made
import pytest
from slotkit.reports.page import write

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")

# Says in the page what it looks like: a test's own script, in a copy.
LOOK = """
<script>
addEventListener("load", () => {
  const marks = "svg .mark, svg .hollow, svg .line";
  const size = (mark) => { const box = mark.getBoundingClientRect(); return box.width + box.height; };
  const seen = {
    right: Math.max(...[...document.querySelectorAll("h1, h2, p, dl, figure, .legend")]
      .map((part) => part.getBoundingClientRect().right)),
    background: getComputedStyle(document.body).backgroundColor,
    figures: [...document.querySelectorAll("figure")].map((figure) => ({
      name: figure.id,
      width: figure.querySelector("svg").getBoundingClientRect().width,
      empty: [...figure.querySelectorAll(marks)].filter((mark) => size(mark) <= 0).length,
      drawn: figure.querySelectorAll(marks).length,
      colour: getComputedStyle(figure.querySelector("svg .line")).stroke,
      text: Math.min(...[...figure.querySelectorAll("svg text")].map(size)),
    })),
  };
  const pre = document.createElement("pre");
  pre.id = "seen";
  pre.textContent = JSON.stringify(seen);
  document.body.append(pre);
});
</script>
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs_dir = tmp_path_factory.mktemp("runs")
    made.lenet(runs_dir)
    made.comparison(runs_dir)
    return write(["lenet", "compared"], runs_dir, runs_dir / "report.html", baseline=False)


def look(report: Path, *more: str, width: str = "auto") -> tuple[dict[str, object], str]:
    """What the page looks like, and what the browser's console says."""
    copy = report.with_name("copy.html")
    frame = f"<style>html {{ width: {width}; }}</style>"
    whole = report.read_text(encoding="utf-8")
    copy.write_text(whole.replace("</body>", f"{LOOK}{frame}</body>"), encoding="utf-8")
    assert BROWSER is not None
    done = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={report.parent / 'profile'}", *more, "--dump-dom", copy.as_uri()),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    told = re.findall(r'<pre id="seen">(.*?)</pre>', done.stdout)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(unescape(told[0])), console


def test_every_figure_is_drawn_and_the_console_is_silent(report: Path) -> None:
    seen, console = look(report, "--window-size=1200,900")
    assert console == ""
    figures = seen["figures"]
    assert isinstance(figures, list)
    assert [one["name"] for one in figures] == [
        *("accuracy-k", "selection", "sharing", "finetuning", "curves-gs", "curves-ps"),
    ]
    for one in figures:
        assert one["empty"] == 0
        assert one["drawn"] >= 2
        assert one["width"] > 300
    assert seen["background"] == "rgb(255, 255, 255)"


def test_the_console_would_say_what_is_wrong(report: Path) -> None:
    """The silence of the other test means something: an image from outside is told."""
    broken = report.with_name("broken.html")
    whole = report.read_text(encoding="utf-8")
    broken.write_text(whole.replace("</main>", "<script>nothing()</script></main>"), encoding="utf-8")
    _, console = look(broken)
    assert "nothing is not defined" in console


def test_it_can_be_read_on_a_phone_and_in_the_dark(report: Path) -> None:
    # Chromium's window is 500 pixels wide at least, so it is the page that is made as narrow as a phone.
    seen, _ = look(report, "--blink-settings=preferredColorScheme=0", width="360px")
    assert 300 < float(str(seen["right"])) <= 360
    figures = seen["figures"]
    assert isinstance(figures, list)
    assert min(one["text"] for one in figures) > 12
    assert seen["background"] == "rgb(20, 23, 26)"
    assert {one["colour"] for one in figures} != {"rgb(0, 114, 178)"}
