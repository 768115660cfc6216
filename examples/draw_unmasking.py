"""Draw how a model writes, as an animated GIF: masks are boxes, and what a step writes is coloured.

python draw_unmasking.py writer "def mean(values, axis) [MASK]{24}" --output unmasking.gif
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from transformers import AutoModelForMaskedLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer

import sequence_encoder  # noqa: F401

WIDTH, SIZE, MARGIN, LEADING = 900, 22, 24, 36
PAPER, INK, NEW, BOX = "white", "#222222", "#0a7d33", "#d9dde3"
MILLISECONDS, AT_THE_END = 350, 4000


class Drafts(BaseStreamer):
    """Collects the text after each step."""

    def __init__(self) -> None:
        self.drafts: list[list[int]] = []
        self.before: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        """Receive the text before the first mask, and at the end all others."""
        if not self.drafts:
            self.before = value.tolist()

    def put_draft(self, value: torch.Tensor, **_: Any) -> None:
        """Receive the text after a step."""
        self.drafts.append([*self.before, *value.tolist()])

    def end(self) -> None:
        """Do nothing, because the last draft is the text."""


def draw(tokenizer: Any, ids: list[int], earlier: list[int]) -> Image.Image:
    """Draw a draft; tokens that the earlier one lacks are coloured."""
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans Mono"), SIZE)
    lines = -(-len(ids) // 8) + 1
    picture = Image.new("RGB", (WIDTH, 2 * MARGIN + lines * LEADING), PAPER)
    pen = ImageDraw.Draw(picture)
    x, y = float(MARGIN), MARGIN
    for place, token in enumerate(ids):
        masked = token == tokenizer.mask_token_id
        if token in tokenizer.all_special_ids and not masked:
            continue
        name = tokenizer.convert_ids_to_tokens(token)
        joined = name.startswith("##")
        text = "____" if masked else name.removeprefix("##")
        width = pen.textlength(text, font)
        x += 0 if joined else pen.textlength(" ", font)
        if x + width > WIDTH - MARGIN:
            x, y = float(MARGIN), y + LEADING
        if masked:
            pen.rounded_rectangle((x, y + 4, x + width, y + SIZE + 4), 5, BOX)
        else:
            is_new = place >= len(earlier) or earlier[place] != token
            pen.text((x, y), text, NEW if is_new else INK, font)
        x += width
    return picture


def main() -> None:
    """Parse the command line, fill the gaps, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub id of a masked language model with a WordPiece tokenizer")
    parser.add_argument("text", help="a text with gaps such as [MASK]{8}")
    parser.add_argument("--output", type=Path, default=Path("unmasking.gif"))
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--do_sample", action="store_true")
    arguments = parser.parse_args()
    model = AutoModelForMaskedLM.from_pretrained(arguments.model)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    streamer = Drafts()
    options = {"steps": arguments.steps, "seed": arguments.seed, "do_sample": arguments.do_sample}
    filled = model.infill(arguments.text, tokenizer, streamer=streamer, **options)
    drafts = streamer.drafts
    frames = [draw(tokenizer, ids, before) for ids, before in zip(drafts, [drafts[0], *drafts], strict=False)]
    frames.append(draw(tokenizer, drafts[-1], drafts[-1]))
    times = [MILLISECONDS] * (len(frames) - 1) + [AT_THE_END]
    frames[0].save(arguments.output, save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True)
    print(filled.text)


if __name__ == "__main__":
    main()
