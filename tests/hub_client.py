"""A process that pushes to a Hub and loads from it. `HubClient` starts it.

It is a separate process because huggingface_hub reads the Hub's address from the environment on import. When run as a
script, this file is that process: it reads one call per line as JSON, and answers each call with one line.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


class ClientError(Exception):
    """Raised for an exception in the process, with the exception's name and message."""


class HubClient:
    """A process that calls functions of this file by name, as in `client.call("load", "AutoModel", …)`.

    Args:
        url: The address of the Hub.
        home: The folder of the client's cache.
        token: The token of the user, or None for an anonymous client.
        offline: Whether the client must not contact the Hub.
        package: Whether the process can import `sequence_encoder`. If not, it runs the code of the repositories.
    """

    def __init__(
        self, url: str, home: Path, *, token: str | None = None, offline: bool = False, package: bool = True
    ) -> None:
        # Not above, because this file as a script may have to run without the package.
        from sequence_encoder.tests.forked_python import forked_python

        foreign = ("HF_", "HUGGING", "TRANSFORMERS_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        environment |= {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            # If hf_xet is installed, it would upload with another protocol.
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            **({"HF_TOKEN": token} if token else {}),
            **({"HF_HUB_OFFLINE": "1"} if offline else {}),
        }
        home.mkdir(parents=True, exist_ok=True)
        self._log = home / "log.txt"
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [forked_python(), __file__, *([] if package else ["--without-package"])],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def call(self, function: str, *arguments: Any, **options: Any) -> Any:
        """Call a function in the process.

        Args:
            function: The name of the function.
            *arguments: Its positional arguments.
            **options: Its keyword arguments.

        Returns:
            The result of the function.

        Raises:
            ClientError: If the function raises an exception.
            RuntimeError: If the process has ended.
        """
        self._process.stdin.write(json.dumps([function, arguments, options]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The process has ended:\n{self._log.read_text()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ClientError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.communicate()


def _ids(config: Any) -> torch.Tensor:
    """Return the ids of two texts. If a model reads labels with them, each has one."""
    ids = torch.arange(1, 15).reshape(2, 7)
    if fields := getattr(config, "zero_shot_classification", None):
        ids[:, 1] = fields["label_token_id"]
    return ids


def outputs(model: Any) -> list[list[Any]]:
    """Return all outputs of a model for a fixed batch. The second text is shorter than the first."""
    ids = _ids(model.config)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    if "MultipleChoice" in type(model).__name__:
        ids, mask = ids[None], mask[None]
    with torch.no_grad():
        return [tensor.tolist() for tensor in model.eval()(input_ids=ids, attention_mask=mask).to_tuple()]


def _serve() -> None:
    # Progress bars and logs must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    trusting = {}
    if "--without-package" in sys.argv:
        sys.modules["sequence_encoder"] = None  # type: ignore[assignment]
        trusting = {"trust_remote_code": True}
    else:
        import sequence_encoder  # noqa: F401 (registers its models)
    import huggingface_hub
    import transformers
    from transformers import dynamic_module_utils

    # For each load, transformers parses all code again, to find the libraries that it imports.
    dynamic_module_utils.get_imports = functools.cache(dynamic_module_utils.get_imports)

    def saved(auto_class: str, name: str, **options: Any) -> Any:
        return getattr(transformers, auto_class).from_pretrained(name, **trusting, **options)

    def push(auto_class: str, folder: str, name: str, **options: Any) -> str:
        """Push a saved model, and return the hash of the commit."""
        return saved(auto_class, folder).push_to_hub(name, **options).oid

    def save_and_push(auto_class: str, folder: str, other: str, output: str, name: str, **options: Any) -> list[str]:
        """Save a model with the weights of another model, push it, and return the files of the folder."""
        state_dict = saved(auto_class, other).state_dict()
        saved(auto_class, folder).save_pretrained(
            output, state_dict=state_dict, push_to_hub=True, repo_id=name, **options
        )
        return sorted(os.listdir(output))

    def load(auto_class: str, name: str, **options: Any) -> list[list[Any]]:
        return outputs(saved(auto_class, name, **options))

    def tokenize(name: str, text: str) -> list[int]:
        return saved("AutoTokenizer", name)(text)["input_ids"]

    def upload(folder: str, name: str) -> None:
        """Upload all files of a folder unchanged."""
        huggingface_hub.create_repo(name, exist_ok=True)
        huggingface_hub.upload_folder(folder_path=folder, repo_id=name)

    def train(auto_class: str, folder: str, name: str, output: str, trainer: str = "Trainer") -> list[list[Any]]:
        """Train two steps, save and push each, and return the outputs of the model loaded from the folder."""
        rows = [{"input_ids": [2, 3, 5, 7], "labels": row % 2} for row in range(2)]
        trainer_class = transformers.Trainer
        if trainer == "HubTrainer":
            from sequence_encoder.training.hub_trainer import HubTrainer as trainer_class
        running = trainer_class(
            saved(auto_class, folder),
            transformers.TrainingArguments(
                output,
                push_to_hub=True,
                hub_model_id=name,
                max_steps=2,
                save_steps=1,
                per_device_train_batch_size=1,
                use_cpu=True,
                report_to=[],
            ),
            train_dataset=rows,
            processing_class=saved("AutoTokenizer", folder),
        )
        running.train()
        running.push_to_hub()
        return outputs(saved(auto_class, output))

    def push_card(name: str, content: str, revision: str | None = None) -> None:
        """Upload a card, which the Hub only accepts if its metadata is valid."""
        huggingface_hub.upload_file(
            path_or_fileobj=content.encode(), path_in_repo="README.md", repo_id=name, revision=revision
        )

    def inspect(name: str) -> dict[str, Any]:
        """Return what `sequence-encoder inspect` says about a repository."""
        from sequence_encoder.conversion.inspection import inspect

        return inspect(name).as_dict()

    def push_tokenizer(folder: str, name: str) -> None:
        saved("AutoTokenizer", folder).push_to_hub(name)

    def outputs_of(name: str) -> list[list[Any]]:
        """Return the outputs of a model as our commands load it, which may be exported or an adapter of peft."""
        from sequence_encoder.conversion.source import Source
        from sequence_encoder.runtimes.exported_heads import load_exported_head
        from sequence_encoder.saving.exported_models import is_exported

        if not is_exported(name):
            return outputs(Source(name).load())
        exported = load_exported_head(name)[0]
        ids = _ids(exported.config)
        ids = ids[None] if "MultipleChoice" in type(exported).__name__ else ids
        found = exported(input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=torch.zeros_like(ids))
        return [tensor.tolist() for tensor in found.values()]

    served = (
        push_tokenizer,
        outputs_of,
        inspect,
        push,
        save_and_push,
        load,
        tokenize,
        upload,
        train,
        push_card,
    )
    functions = {function.__name__: function for function in served}
    for line in sys.stdin:
        name, arguments, options = json.loads(line)
        try:
            answer = {"result": functions[name](*arguments, **options)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
