"""The Hub's rules for the metadata of a model card, checked here so that errors appear before anything is pushed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

_METADATA = re.compile(r"^\s*---\r?\n(.*?)\r?\n---\s*(?:\n|$)", re.DOTALL)
_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_card(content: str) -> tuple[list[str], list[str]]:
    """Return the errors and the warnings for the text of a card."""
    block = _METADATA.match(content)
    if not block:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        return [f"the metadata is not valid YAML: {error}"], []
    if not isinstance(metadata, dict):
        return ["the metadata must be an object"], []
    return [*_field_errors(metadata), *_evaluation_errors(metadata)], []


def _field_errors(metadata: dict[str, Any]) -> Iterator[str]:
    for name in ("license", "library_name", "pipeline_tag"):
        if not isinstance(metadata.get(name, ""), str):
            yield f'"{name}" must be a string'
    for name in ("tags", "language", "datasets", "metrics", "base_model"):
        values = metadata.get(name, [])
        values = [values] if isinstance(values, str) and name != "tags" else values
        if not isinstance(values, list):
            yield f'"{name}" must be an array'
            continue
        for index, value in enumerate(values):
            if not isinstance(value, str):
                yield f'"{name}[{index}]" must be a string'
            elif name in ("datasets", "base_model") and not _REPOSITORY.fullmatch(value):
                yield f'"{name}[{index}]" with value "{value}" is not valid; use a Hub id'
    emissions = metadata.get("co2_eq_emissions", 0)
    if isinstance(emissions, dict):
        emissions = emissions.get("emissions")
    if not _is_number(emissions):
        yield '"co2_eq_emissions" must be a number, or an object with a number "emissions"'


def _evaluation_errors(metadata: dict[str, Any]) -> Iterator[str]:
    for model, at in _items(metadata, "model-index", ""):
        yield from _missing(model, at, "name")
        if "results" not in model:
            yield f'"{at}.results" is required'
        for result, at_result in _items(model, "results", f"{at}."):
            yield from _missing(result.get("task"), f"{at_result}.task", "type")
            yield from _missing(result.get("dataset"), f"{at_result}.dataset", "type", "name")
            metrics = list(_items(result, "metrics", f"{at_result}."))
            if not metrics:
                yield f'"{at_result}.metrics" must have at least one item'
            for metric, at_metric in metrics:
                yield from _missing(metric, at_metric, "type", "value")


def _items(parent: dict[str, Any], name: str, prefix: str) -> Iterator[tuple[dict[str, Any], str]]:
    values = parent.get(name)
    for index, value in enumerate(values if isinstance(values, list) else []):
        yield (value if isinstance(value, dict) else {}), f"{prefix}{name}[{index}]"


def _missing(values: Any, at: str, *names: str) -> Iterator[str]:
    for name in names:
        if not isinstance(values, dict) or values.get(name) is None:
            yield f'"{at}.{name}" is required'


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
