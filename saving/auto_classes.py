"""The classes of models, by name: what saving, cards and commands know about each, which its own module says.

A head needs one module and one line: a class with these attributes, which `modeling/__init__.py` imports. They are read
from the source, so that nothing here imports torch.
"""

from __future__ import annotations

import ast
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any

from .code_bundle import MODELING
from .merged_code import source_module

_CONFIGURATIONS = {
    "sequence_encoder": "SequenceEncoderConfig",
    "sequence_encoder_task_adapter": "TaskAdapterConfig",
}
# The class in a saved folder for the Auto classes that its code does not have.
LEFT_OUT = "HeadLeftOut"


@dataclass(frozen=True)
class ModelClass:
    """A class of models. The fields with defaults are its class attributes of the same names with an underscore.

    Attributes:
        name: Its name.
        file: The file of its module, relative to the package.
        bases: The names of the classes of this package that it inherits from.
        auto_classes: The Auto classes of transformers that load it. Cards name the first.
        hub_task: The Hub's name of its task.
        has_pipeline: Whether transformers has a pipeline for that task.
        use: What to use a model with, in words; None for its pipeline or Auto class.
        outputs: The number of outputs of each linear layer of its head, or the field of the configuration that has it.
        pools: Whether its encoder computes a vector for each text.
        saves_recipe: Whether a model is still an encoder for any task. Others have been fine-tuned for theirs.
        offers: The names of other classes whose code a folder has, because the weights fit them.
        by_architecture: Whether its Auto classes load another class by default, and this one only if `architectures` in
            the configuration names it.
    """

    name: str
    file: str
    bases: frozenset[str]
    auto_classes: tuple[str, ...] = ()
    hub_task: str = ""
    has_pipeline: bool = True
    use: str | None = None
    outputs: tuple[int | str, ...] = ()
    pools: bool = True
    saves_recipe: bool = False
    offers: tuple[str, ...] = ()
    by_architecture: bool = False

    @property
    def model_type(self) -> str:
        """The type of its configuration."""
        ours = "SequenceEncoderPreTrainedModel" in self.bases
        return "sequence_encoder" if ours else "sequence_encoder_task_adapter"

    def in_folder(self) -> set[str]:
        """Return the names of the classes whose code is saved with a model."""
        names = {self.name, "SequenceEncoderModel", *self.offers}
        if self.saves_recipe:
            names |= {each.name for each in model_classes().values() if not (each.saves_recipe or each.by_architecture)}
        return names & of_type(self.model_type).keys()


# The class attribute for each field that has one.
_ATTRIBUTES = {field.name: f"_{field.name}" for field in fields(ModelClass) if field.default is not MISSING}


@cache
def model_classes() -> dict[str, ModelClass]:
    """Return all classes of models by name."""
    classes = {}
    for name, (file, _) in source_module("modeling/__init__.py").inside.items():
        bases, attributes = _read(file, name)
        values = {field: attributes[own] for field, own in _ATTRIBUTES.items() if own in attributes}
        classes[name] = ModelClass(name, file, bases, **values)
    return {name: each for name, each in classes.items() if each.auto_classes}


def _read(path: str, name: str) -> tuple[frozenset[str], dict[str, Any]]:
    """Return the bases of a class, and its attributes that `ModelClass` has, also those that it inherits.

    Raises:
        ValueError: If the value of one is not a literal.
    """
    module = source_module(path)
    if name in module.inside:
        return _read(*module.inside[name])
    node = module.named[name].node if name in module.named else None
    if not isinstance(node, ast.ClassDef):
        return frozenset(), {}
    names = [base.id for base in node.bases if isinstance(base, ast.Name)]
    bases, attributes = frozenset(names), dict[str, Any]()
    for base in reversed(names):
        inherited, values = _read(path, base)
        bases, attributes = bases | inherited, attributes | values
    for statement in node.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            stated = {ast.unparse(target) for target in targets} & {*_ATTRIBUTES.values()}
            attributes |= {own: ast.literal_eval(statement.value) for own in stated}
    return bases, attributes


def of_type(model_type: str) -> dict[str, ModelClass]:
    """Return the classes of a model type by name; none if it is not of this package."""
    return {name: each for name, each in model_classes().items() if each.model_type == model_type}


def model_class_of(model: Any) -> ModelClass:
    """Return the class of a model. Subclasses are allowed, and classes from a saved folder.

    Raises:
        ValueError: If the model is not from this package.
    """
    # The nearest class comes first.
    for kind in type(model).__mro__:
        if kind.__name__ in model_classes():
            return model_classes()[kind.__name__]
    raise ValueError(f"model must be a model of sequence_encoder, got a {type(model).__name__}.")


def saved_class(config: Any) -> ModelClass | None:
    """Return the class of the model that a configuration is saved with; None if it is not known."""
    architectures = getattr(config, "architectures", None) or []
    return of_type(config.model_type).get(architectures[0]) if len(architectures) == 1 else None


def classes_in_folder(config: Any) -> set[str]:
    """Return the names of the model classes whose code is saved with a configuration."""
    saved = saved_class(config)
    if saved is not None:
        return saved.in_folder()
    return {name for name, each in of_type(config.model_type).items() if not each.by_architecture}


def auto_classes(model_type: str, named: str | None = None) -> dict[str, str]:
    """Return the name of the class that each Auto class resolves to; none if the type is not of this package.

    Args:
        model_type: The model type.
        named: The name of the class that a configuration names, if it does.
    """
    classes = of_type(model_type)
    models = {auto: each.name for each in classes.values() if not each.by_architecture for auto in each.auto_classes}
    models |= dict.fromkeys(classes[named].auto_classes, named) if named in classes else {}
    return {"AutoConfig": _CONFIGURATIONS[model_type], **models} if models else {}


def auto_map(config: Any) -> dict[str, str]:
    """Return the `auto_map` of `config.json`: the file and the class for each Auto class.

    Every entry refers to the file that imports the other one. Transformers copies only the file of an entry and its
    imports, so this way a configuration that was loaded alone can still be saved with all of the code.

    Args:
        config: The configuration. Entries of its current `auto_map` for other classes, such as a user's subclass, are
            kept. Entries for classes of this package are replaced, because their code is saved with the configuration.
    """
    saved, offered = saved_class(config), classes_in_folder(config)
    classes = auto_classes(config.model_type, None if saved is None else saved.name)
    names = {kind: name if kind == "AutoConfig" or name in offered else LEFT_OUT for kind, name in classes.items()}
    given: dict[str, str] = getattr(config, "auto_map", None) or {}
    replaced = {LEFT_OUT, *classes.values(), *of_type(config.model_type)}
    others = {kind: path for kind, path in given.items() if str(path).rpartition(".")[2] not in replaced}
    return {kind: f"{MODELING}.{name}" for kind, name in names.items()} | others
