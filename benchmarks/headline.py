"""Draw the README's figure from the tables in `RESULTS.md`: tokens per second compared with peers, in float32.

Run it after the results change. It writes `docs/speed-light.svg` and `docs/speed-dark.svg`.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt

ROOT = Path(__file__).parent.parent
OURS = "SequenceEncoder"
# Each panel: its title, a heading of RESULTS.md, and the column of the table below it.
PANELS = (
    ("Embed texts as they arrive", "Embedding texts as they arrive", 1),
    ("Embed a large collection", "Embedding many texts (`bulk_embedding.py`)", 1),
    ("Fine-tune, 34 % real tokens", "Steps of fine-tuning", 3),
)
# Text, our bars, the bars of peers.
COLOURS = {"light": ("#1f2328", "#1a7f64", "#b3bac2"), "dark": ("#e6edf3", "#3fb68f", "#596270")}


def read_speeds(results: str, heading: str, column: int) -> dict[str, int]:
    """Read the tokens per second of each peer from the first table below a heading.

    Args:
        results: The text of `RESULTS.md`.
        heading: How the heading starts.
        column: The column of the table, counted from 0, where column 0 holds the names.
    """
    section = results.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
    table = next(part for part in section.split("\n\n") if part.startswith("|"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    found = ((row[0], re.match(r"[\d,]+", row[column])) for row in rows[2:])
    return {name: int(speed[0].replace(",", "")) for name, speed in found if speed}


def draw(speeds: dict[str, dict[str, int]], file: Path, text: str, ours: str, theirs: str) -> None:
    """Draw one row of bars for each peer, and one panel for each task, on a transparent background."""
    figure, panels = plt.subplots(
        len(speeds), 1, figsize=(7.6, 3.9), gridspec_kw={"height_ratios": [len(peers) for peers in speeds.values()]}
    )
    for panel, (title, peers) in zip(panels, speeds.items(), strict=True):
        slowest = next(iter(peers.values()))
        bars = panel.barh(
            list(peers), list(peers.values()), color=[ours if OURS in name else theirs for name in peers], height=0.72
        )
        labels = [f"{speed:,} tokens/s   {speed / slowest:.1f} x" for speed in peers.values()]
        panel.bar_label(bars, labels, padding=5, color=text, fontsize=9)
        panel.set_title(title, loc="left", color=text, fontsize=10, fontweight="bold", pad=4)
        panel.invert_yaxis()
        panel.set_xlim(0, max(peers.values()) * 1.5)
        panel.tick_params(axis="y", length=0, colors=text, labelsize=9)
        panel.xaxis.set_visible(False)
        panel.spines[:].set_visible(False)
    figure.tight_layout(h_pad=0.8)
    figure.savefig(file, transparent=True, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Draw the figure for light and dark pages."""
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    speeds = {title: read_speeds(results, heading, column) for title, heading, column in PANELS}
    matplotlib.use("svg")
    # A fixed salt makes the output deterministic.
    matplotlib.rcParams["svg.hashsalt"] = "sequence-encoder"
    for page, colours in COLOURS.items():
        draw(speeds, ROOT / "docs" / f"speed-{page}.svg", *colours)


if __name__ == "__main__":
    main()
