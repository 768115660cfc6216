"""A cache of text vectors that fills memory first and then the disk, each up to a limit.

Shapes: B batch, S sequence, D hidden.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from ...saving.scratch_folders import scratch_folder

# Vectors per block of memory or file.
_ROWS = 4096


class FeatureCache:
    """A cache of text vectors, keyed by the tokens of a text, whichever batch the text appears in.

    Args:
        encode: A function that returns vectors (B, D) for a batch of tensors.
        memory_bytes: The most bytes of vectors to keep in memory.
        disk_bytes: The most bytes of vectors to keep in temporary files once the memory is full. Texts that fit
            neither are encoded each time.
    """

    def __init__(
        self, encode: Callable[[dict[str, torch.Tensor]], torch.Tensor], memory_bytes: int, disk_bytes: int
    ) -> None:
        self.encode = encode
        self.limits = (memory_bytes, disk_bytes)
        self.rows: dict[bytes, int] = {}
        self.pieces: list[torch.Tensor] = []
        self.scratch: AbstractContextManager[Path] | None = None
        self.encoded = 0

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the vectors of a batch, and encode the texts that are not cached.

        Args:
            inputs: `input_ids` (B, S), and any other inputs of the encoder with that shape.

        Returns:
            The vectors (B, D) on the device of the inputs, in float32 or the encoder's dtype if that is wider.
        """
        keys = _keys(inputs)
        missing = [index for index, key in enumerate(keys) if key not in self.rows]
        device = inputs["input_ids"].device
        fresh = None
        if missing:
            batch = {name: tensor[missing] for name, tensor in inputs.items()} if len(missing) < len(keys) else inputs
            fresh = self._encode(batch)
            self.encoded += len(missing)
            for index, vector in zip(missing, fresh, strict=True):
                self._keep(keys[index], vector)
            if len(missing) == len(keys):
                return fresh.to(device)
        found = dict(zip(missing, fresh if fresh is not None else (), strict=True))
        vectors = [found[i] if i in found else self._kept(self.rows[key]) for i, key in enumerate(keys)]
        return torch.stack(vectors).to(device)

    def close(self) -> None:
        """Drop all vectors and delete the temporary files."""
        self.pieces.clear()
        self.rows.clear()
        if self.scratch is not None:
            self.scratch.__exit__(None, None, None)
            self.scratch = None

    def _encode(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        vectors = self.encode(dict(batch)).detach()
        return vectors.to("cpu", torch.promote_types(vectors.dtype, torch.float32))

    def _kept(self, row: int) -> torch.Tensor:
        return self.pieces[row // _ROWS][row % _ROWS]

    def _keep(self, key: bytes, vector: torch.Tensor) -> None:
        row = len(self.rows)
        if key in self.rows:
            return
        if row == len(self.pieces) * _ROWS:
            piece = self._new_piece(vector)
            if piece is None:
                return
            self.pieces.append(piece)
        self._kept(row).copy_(vector)
        self.rows[key] = row

    def _new_piece(self, vector: torch.Tensor) -> torch.Tensor | None:
        """Allocate a block for more vectors, or return None if memory and disk are full."""
        size = _ROWS * vector.numel() * vector.element_size()
        after = size * (len(self.pieces) + 1)
        if after <= self.limits[0]:
            return torch.empty(_ROWS, vector.numel(), dtype=vector.dtype)
        if after - self.limits[0] // size * size > self.limits[1]:
            return None
        if self.scratch is None:
            self.scratch = scratch_folder(Path(tempfile.gettempdir()), "sequence-encoder-features-")
            self.folder = self.scratch.__enter__()
        file = self.folder / f"{len(self.pieces)}.bin"
        shape = (_ROWS, vector.numel())
        return torch.from_file(str(file), shared=True, size=shape[0] * shape[1], dtype=vector.dtype).view(shape)


def _keys(inputs: Mapping[str, torch.Tensor]) -> list[bytes]:
    """Return a key for each text of a batch that does not depend on the padding after the text.

    Padding and masked tokens before the last token are part of the key, because they can shift positions.
    """
    names = sorted(inputs)
    arrays: dict[str, Any] = {name: inputs[name].detach().cpu().numpy() for name in names}
    mask = arrays.get("attention_mask")
    keys = []
    for index in range(len(inputs["input_ids"])):
        digest = blake2b(digest_size=16)
        end = None if mask is None else int(max(mask[index].nonzero()[0], default=-1)) + 1
        for name in names:
            digest.update(name.encode())
            digest.update(arrays[name][index][:end].tobytes())
        keys.append(digest.digest())
    return keys
