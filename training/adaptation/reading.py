"""Reads the examples of an adaptation, splits them, and plans the training from their number."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from .cross_validation import folds_of, is_cross_validated
from .examples.loading import hold_out, load_examples, number_texts, warn_about_contradictions, warn_about_shared_texts
from .head_recipe import HeadRecipe
from .plan import PLANNED, plan_for
from .run import Adaptation
from .similarity_recipe import SimilarityRecipe
from .tasks import HEAD_TASKS, WRITING_TASKS
from .unlabelled_texts import check_unlabelled
from .without_labels import with_names_in_turn
from .writing_recipe import WritingRecipe


def read_examples(run: Adaptation) -> HeadRecipe | SimilarityRecipe:
    """Read the examples, and check everything that can be checked without an encoder."""
    with run.args.main_process_first(local=run.args.save_on_each_node, desc="reading examples"):
        examples = load_examples(run.data)
        unlabelled = examples.pop("unlabelled", None)
        if run.data.lacks_labels:
            examples = with_names_in_turn(run, examples)
        kinds = {**dict.fromkeys(HEAD_TASKS, HeadRecipe), **dict.fromkeys(WRITING_TASKS, WritingRecipe)}
        recipe = kinds.get(run.model.task, SimilarityRecipe)(run, examples)
        recipe.unlabelled = None if unlabelled is None else check_unlabelled(recipe, unlabelled)
        # The recipe has read the labels before, since a rare label may be held out.
        classes = recipe.classes
        train = recipe.rows["train"]
        if classes is not None and run.args.should_save and not run.data.lacks_labels:
            warn_about_contradictions(run.data, number_texts(train, recipe.task.texts), classes)
        if recipe.can_start_linear and is_cross_validated(run, recipe.rows):
            recipe.folds = folds_of(classes, number_texts(train, recipe.task.texts), run.args.seed)
            recipe.rows = {**recipe.rows, "validation": train.select(np.concatenate(recipe.folds))}
        else:
            recipe.rows, recipe.positions = hold_out(recipe.rows, run.data, run.args.seed, classes)
        if run.data.lacks_labels and run.model.tuning == "auto":
            # Only the head is fitted.
            run.args.planned = []
        elif run.model.tuning in PLANNED:
            planned = plan_for(
                len(recipe.rows["train"]),
                run.args.world_size,
                steps_of(run, recipe),
                starts_linear=recipe.can_start_linear,
                is_embedding=run.model.task == "embedding",
            )
            for name in run.args.planned:
                setattr(run.args, name, planned[name])
        if run.args.should_save:
            others = [split for split in recipe.rows if split != "train" and split not in recipe.cross_validated]
            warn_about_shared_texts(recipe.rows, recipe.task.texts, others)
        return recipe


def steps_of(run: Adaptation, recipe: Any) -> float | None:
    """Return the number of steps if the user has set it or the number of epochs, else None."""
    args = run.args
    if args.max_steps > 0:
        return args.max_steps
    if "num_train_epochs" in args.planned:
        return None
    batch = cast(int, args.per_device_train_batch_size) * args.world_size
    return cast(float, args.num_train_epochs) * len(recipe.rows["train"]) / batch
