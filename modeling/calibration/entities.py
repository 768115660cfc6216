"""From the tags of words to entities: their places, their kinds, and the probabilities of these.

Tags are `B-person` at the beginning of an entity, `I-person` inside, and `O` outside; or have no prefix, as parts of
speech do. Entities are those of transformers' pipeline.

Shapes: E entities, C tags, K kinds.
"""

import re
from collections.abc import Sequence

import torch

_PREFIX = re.compile(r"^[BIESLU]-")
_NO_ENTITY = "O"


def kind_of(tag: str) -> str:
    """Return the kind of entity that a tag names, without its prefix."""
    return _PREFIX.sub("", tag)


def kinds_of(tags: Sequence[str]) -> list[str]:
    """Return the kinds of entities that tags name, `O` among them if it is a tag, in the order of the tags."""
    return list(dict.fromkeys(map(kind_of, tags)))


def group_tags(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return the first word, the word after the last, and the kind of each entity.

    Args:
        tags: The tag of each word.
    """
    found: list[tuple[int, int, str]] = []
    for place, tag in enumerate(tags):
        kind = kind_of(tag)
        if kind == _NO_ENTITY:
            continue
        if found and found[-1][1] == place and found[-1][2] == kind and not tag.startswith("B-"):
            found[-1] = (found[-1][0], place + 1, kind)
        else:
            found.append((place, place + 1, kind))
    return found


def probabilities_of_kinds(probabilities: torch.Tensor, tags: Sequence[str]) -> torch.Tensor:
    """Return the probabilities of kinds (E, K) from the probabilities of tags (E, C)."""
    kinds = kinds_of(tags)
    places = torch.tensor([kinds.index(kind_of(tag)) for tag in tags], device=probabilities.device)
    return probabilities.new_zeros(len(probabilities), len(kinds)).index_add(1, places, probabilities)
