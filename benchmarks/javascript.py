"""Compare the speed of our exports with that of transformers' BERT in transformers.js, and check their eight bits.

    python benchmarks/javascript.py NODE_MODULES [CHROMIUM]

Both are all-MiniLM-L6-v2 in Node, on one thread, in batches of 32 texts, sorted by length or as they come, a batch of
one after the same batch of the other. For `q8`, it also prints the cosines of the vectors to those in float32, in Node
and in Chromium. No text is one of those for calibration.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from exported_models import export as export_bert
from minilm import MINILM
from peers import print_machine, short_texts
from transformers import AutoTokenizer, BertModel

from sequence_encoder import convert, export
from sequence_encoder.inference.quantization.input_ranges import default_texts

RUNNER = Path(__file__).parent.parent / "tests" / "javascript" / "run.mjs"
TEXTS = 256
SPEED = """\
import { AutoModel, AutoTokenizer } from "@huggingface/transformers";
const texts = TEXTS;
const session_options = { intraOpNumThreads: 1 };
const load = (name, dtype) => AutoModel.from_pretrained(name, { dtype, session_options });
const models = { bert: await load("bert", "fp32"), ours: await load("ours", "fp32"), q8: await load("ours", "q8") };
const tokenizer = await AutoTokenizer.from_pretrained("ours");
const orders = { sorted: [...texts].sort((a, b) => a.length - b.length), arriving: texts };
const found = {};
for (const [order, rows] of Object.entries(orders)) {
  found[order] = Object.fromEntries(Object.keys(models).map((name) => [name, 0]));
  for (let round = 0; round < 3; ++round) {
    for (let start = 0; start < rows.length; start += 32) {
      const inputs = tokenizer(rows.slice(start, start + 32), { padding: true, truncation: true });
      for (const [name, model] of Object.entries(models)) {
        const before = process.cpuUsage();
        await model(inputs);
        const { user, system } = process.cpuUsage(before);
        if (round > 0) found[order][name] += user + system;
      }
    }
  }
}
console.log(found);
"""
VECTORS = """\
import { pipeline } from "@huggingface/transformers";
const texts = TEXTS;
const vectors = [];
const extract = await pipeline("feature-extraction", "ours", { dtype: "q8" });
for (let start = 0; start < texts.length; start += 16) {
  const options = { pooling: "mean", normalize: true };
  vectors.push(...(await extract(texts.slice(start, start + 16), options)).tolist());
}
console.log(vectors);
"""


def run(packages: str, place: str, folder: Path, program: str, texts: list[str]) -> object:
    """Run a program in Node or in Chromium, and return what it logs."""
    with tempfile.TemporaryDirectory() as programs:
        Path(programs, "program.mjs").write_text(program.replace("TEXTS", json.dumps(texts)), encoding="utf-8")
        release = "@huggingface/transformers"
        command = ["node", str(RUNNER), str(Path(packages).resolve()), release, place, str(folder), programs]
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    if "error" in result["program.mjs"]:
        sys.exit(result["program.mjs"]["error"])
    return result["program.mjs"]["logged"][0]


def main(packages: str, *chromium: str) -> None:
    """Export both, and print the table."""
    print_machine()
    model, tokenizer = convert(MINILM), AutoTokenizer.from_pretrained(MINILM)
    known = set(default_texts())
    texts = [text for text in short_texts(2 * TEXTS) if text not in known][:TEXTS]
    expected = model.encode(texts, tokenizer)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(export(model, tokenizer, folder / "ours", "transformers.js"))
        (folder / "bert" / "onnx").mkdir(parents=True)
        with torch.no_grad():
            export_bert(BertModel.from_pretrained(MINILM).eval(), folder / "bert" / "onnx" / "model.onnx")
        # ONNX Runtime finds the weights beside the graph. transformers.js would look for a file with another name.
        config = {"model_type": "bert", "architectures": ["BertModel"]}
        (folder / "bert" / "config.json").write_text(json.dumps(config), encoding="utf-8")
        for order, seconds in run(packages, "node", folder, SPEED, texts).items():
            ratios = ", ".join(f"{name} {seconds['bert'] / each:.2f}" for name, each in seconds.items())
            print(f"{order}: times as fast as BERT: {ratios}")
        for place in ("node", *chromium):
            found = np.array(run(packages, place, folder, VECTORS, texts))
            cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1)
            print(f"q8 in {Path(place).name}: cosine {cosines.mean():.5f} on average, {cosines.min():.5f} at least")


if __name__ == "__main__":
    main(*sys.argv[1:])
