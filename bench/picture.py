"""The figures of a benchmark as a picture: ``python -m bench.picture FILE.json FILE.svg``."""

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

WIDTH, LABELS, ROW, BAR = 860, 250, 26, 16
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .head { font-weight: 600; font-size: 15px }
  .dim { fill: #57606a }
  .bar { fill: #8c959f }
  .ours { fill: #1a7f37 }
  .unmet { fill: #bc4c00 }
  .mark { stroke: #24292f; stroke-dasharray: 3 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .dim { fill: #9198a1 }
    .mark { stroke: #e6edf3 }
    .ground { fill: #0d1117 }
  }
"""


class Drawing:
    """Bars below each other; knows how far down it has come."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.y = 12

    def text(self, x: float, text: str, name: str = "", anchor: str = "start") -> None:
        self.parts.append(
            f'<text x="{x:.0f}" y="{self.y + 13}" class="{name}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def heading(self, text: str) -> None:
        self.y += 14
        self.text(16, text, "head")
        self.y += ROW

    def bar(self, label: str, part: float, text: str, name: str) -> None:
        """``part`` of the room there is, 1 for all of it."""
        room = WIDTH - LABELS - 110
        self.text(LABELS - 10, label, anchor="end")
        self.parts.append(
            f'<rect x="{LABELS}" y="{self.y + 1}" width="{max(1.0, part * room):.1f}" height="{BAR}" '
            f'rx="2" class="{name}"/>'
        )
        self.text(LABELS + part * room + 8, text, "dim")
        self.y += ROW

    def mark(self, part: float, top: int) -> None:
        x = LABELS + part * (WIDTH - LABELS - 110)
        self.parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 2}" y2="{self.y - 6}" class="mark"/>')

    def svg(self) -> str:
        height = self.y + 12
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
            f"<style>{STYLE}</style>"
            f'<rect class="ground" width="100%" height="100%" fill="#ffffff"/>{"".join(self.parts)}</svg>\n'
        )


def drawn(figures: dict[str, Any]) -> str:
    """Return an SVG: deliveries per second of each peer, and uws4r's ratios to the ceiling."""
    drawing = Drawing()
    peers = [peer for peer in figures.get("peers", []) if "w1" in peer]
    for key, what in (
        ("w16", "Fan-out to 1,000 clients, 16 messages in flight: deliveries per second"),
        ("w1", "Fan-out to 1,000 clients, one message in flight: deliveries per second"),
        ("spread", "1,000 clients on 1,000 channels: deliveries per second"),
        ("echo", "100 clients who publish and wait for it: echoes per second"),
    ):
        if peers:
            drawing.heading(what)
            most = max(peer[key] for peer in peers)
            for peer in sorted(peers, key=lambda peer: -peer[key]):
                name = "ours" if peer["name"] == "uws4r" else "bar"
                label = "bare C" if peer["name"] == "ceiling" else peer["name"]
                drawing.bar(label, peer[key] / most, f"{peer[key]:,.0f}", name)
    ratios = [
        line
        for line in figures.get("goals", [])
        if line["goal"] <= 3 and line["at_least"] and "of " not in line["what"]
    ]
    if ratios:
        drawing.heading("Of what bare C delivers; the line is the goal")
        most = max(1.0, *(line["value"] for line in ratios))
        for line in ratios:
            top = drawing.y
            drawing.bar(
                line["what"].replace(" in flight", ""),
                line["value"] / most,
                f"{line['value']:.2f}",
                "ours" if line["met"] else "unmet",
            )
            drawing.mark(line["mark"] / most, top)
    return drawing.svg()


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(drawn(json.loads(Path(sys.argv[1]).read_text())))
