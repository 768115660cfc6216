"""Draw how a model writes, as an animated GIF: masks are boxes, and what a step writes is coloured.

A separator in the text starts a new line.

python draw_unmasking.py writer "def mean(values, axis) [MASK]{24}" --output unmasking.gif
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont, ImageOps
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
    # More than enough; what stays empty is cut off.
    picture = Image.new("RGB", (WIDTH, 2 * MARGIN + len(ids) * LEADING), PAPER)
    pen = ImageDraw.Draw(picture)
    x, y = float(MARGIN), MARGIN
    for place, token in enumerate(ids):
        masked = token == tokenizer.mask_token_id
        if token == tokenizer.sep_token_id and place < len(ids) - 1:
            x, y = float(MARGIN), y + LEADING
        if token in tokenizer.all_special_ids and not masked:
            continue
        name = tokenizer.convert_ids_to_tokens(token)
        joined = name.startswith("##")
        text = "____" if masked else name.removeprefix("##")
        width = pen.textlength(text, font)
        x += 0 if joined or x == MARGIN else pen.textlength(" ", font)
        if x + width > WIDTH - MARGIN:
            x, y = float(MARGIN), y + LEADING
        if masked:
            pen.rounded_rectangle((x, y + 4, x + width, y + SIZE + 4), 5, BOX)
        else:
            is_new = place >= len(earlier) or earlier[place] != token
            pen.text((x, y), text, NEW if is_new else INK, font)
        x += width
    return picture.crop((0, 0, WIDTH, y + LEADING + MARGIN))


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
    # Boxes are narrower than most words, so the pictures may have different heights.
    height = max(frame.height for frame in frames)
    frames = [ImageOps.pad(frame, (WIDTH, height), color=PAPER, centering=(0, 0)) for frame in frames]
    times = [MILLISECONDS] * (len(frames) - 1) + [AT_THE_END]
    frames[0].save(arguments.output, save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True)
    print(filled.text)


if __name__ == "__main__":
    main()
