"""The command line: `sequence-encoder COMMAND …` or `python -m sequence_encoder COMMAND …`.

Each command first parses its arguments, and imports torch only to run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

from .command_line import UsageError
from .command_line.full_disk import is_disk_full
from .command_line.progress import lines_in_logs
from .command_line.quiet import quiet_libraries
from .version import __version__

Run = Callable[[], object]
# Listed here, because importing the families imports torch.
_FAMILIES = (
    *("bert", "roberta", "distilbert", "electra", "albert", "ernie", "mpnet", "deberta-v2"),
    *("nomic_bert", "gte", "jina_embeddings_v3", "eurobert", "ultrabert"),
    *("data2vec_text", "roberta_prelayernorm", "xlm_roberta_xl", "megatron_bert"),
    *("roformer", "rembert", "modernbert"),
)


def _without_traceback(run: Run) -> Run:
    """Let a command report a `ValueError` as a user error."""

    def reporting() -> object:
        try:
            return run()
        except ValueError as error:
            raise UsageError(error) from error

    return reporting


@dataclass(frozen=True)
class _WithoutModels:
    """A command that loads no model, and so starts without torch and transformers, which take seconds to import."""

    run: Run

    def __call__(self) -> object:
        return self.run()


def quickstart(arguments: list[str]) -> Run:
    """Pretrain, adapt, save and reload a small encoder in minutes, on the docstrings of the installed libraries."""
    from .training.quickstart.arguments import COMMAND_LINE, QuickstartArguments

    COMMAND_LINE.check(arguments)
    (parsed,) = COMMAND_LINE.read(arguments, (QuickstartArguments,))

    def run() -> None:
        from .training.quickstart.recipe import quickstart

        quickstart(parsed)

    return run


def pretrain(arguments: list[str]) -> Run:
    """Pretrain an encoder on any corpus with masked tokens and sentence order, in one process or many."""
    from .training.pretraining.arguments import COMMAND_LINE, check_libraries
    from .training.pretraining.resumed_arguments import with_saved_arguments

    *_, options = COMMAND_LINE.check(with_saved_arguments(arguments))
    check_libraries(options)

    def run() -> None:
        from .training.pretraining.recipe import pretrain
        from .training.pretraining.run import parse

        # If the process group is not destroyed, the processes can exit with an error.
        pretrain(parse(arguments)).accelerator.end_training()

    return run


def adapt(arguments: list[str]) -> Run:
    """Fine-tune an encoder for a task: classification, entities, question answering, embeddings, ranking and others."""
    from .training.adaptation.arguments import COMMAND_LINE, check_libraries

    model, _, options = COMMAND_LINE.check(arguments)
    check_libraries(model, options)

    def run() -> None:
        from accelerate import PartialState

        from .training.adaptation.recipe import adapt
        from .training.adaptation.run import parse

        adapt(parse(arguments))
        PartialState().destroy_process_group()

    return run


def convert(arguments: list[str]) -> Run:
    """Convert a checkpoint of another family to a SequenceEncoder, or convert one back with --to."""
    from .command_line.parser import check_names

    parser = argparse.ArgumentParser(
        prog="sequence-encoder convert",
        description=f"{convert.__doc__}\n\n  sequence-encoder convert google-bert/bert-base-uncased converted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", help="folder or Hub id of the checkpoint")
    parser.add_argument("target", help="folder to write")
    parser.add_argument("--to", choices=_FAMILIES, help="family to convert a SequenceEncoder to")
    parser.add_argument("--base-model", action="store_true", help="convert only the encoder, without its head")
    parser.add_argument("--force", action="store_true", help="replace the target folder if it contains a saved model")
    check_names("convert", arguments, ("--to", "--base-model", "--force", "--help", "-h"))
    parsed = parser.parse_args(arguments)

    @_without_traceback
    def run() -> None:
        from .conversion.command import convert_checkpoint

        convert_checkpoint(parsed.source, parsed.target, parsed.to, parsed.base_model, parsed.force)

    return run


def export(arguments: list[str]) -> Run:
    """Export a model to ONNX, OpenVINO or a torch program, for other runtimes and languages, if its outputs agree."""
    from .command_line.parser import check_names
    from .export.requirements import FORMATS, check_format

    parser = argparse.ArgumentParser(
        prog="sequence-encoder export",
        description=f"{export.__doc__}\n\n  sequence-encoder export sentence-transformers/all-MiniLM-L6-v2 exported "
        "--to onnx --pooled",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="model", help="folder or Hub id of the model; `convert` lists the families")
    parser.add_argument("target", help="folder to write")
    parser.add_argument("--to", choices=FORMATS, default="onnx", help="format; default: onnx")
    parser.add_argument(
        "--pooled", action="store_true", help="export the encoder alone, with pooling and normalisation in the graph"
    )
    parser.add_argument("--force", action="store_true", help="replace the target folder if it contains a saved model")
    check_names("export", arguments, ("--to", "--pooled", "--force", "--help", "-h"))
    parsed = parser.parse_args(arguments)
    check_format(parsed.to)

    @_without_traceback
    def run() -> None:
        from .export.command import export_checkpoint

        export_checkpoint(parsed.source, parsed.target, parsed.to, parsed.pooled, parsed.force)

    return run


def quantize(arguments: list[str]) -> Run:
    """Quantize a model to eight bits, a quarter of its size, and leave out layers that would change its outputs."""
    from .command_line.parser import check_names

    parser = argparse.ArgumentParser(
        prog="sequence-encoder quantize",
        description=f"{quantize.__doc__}\n\n  sequence-encoder quantize sentence-transformers/all-MiniLM-L6-v2 "
        "quantized",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="model", help="folder or Hub id of the model; `convert` lists the families")
    parser.add_argument("target", help="folder to write")
    parser.add_argument(
        "--texts",
        metavar="FILE",
        help="file with a text in each line, a few hundred like those that the model will read; default: English "
        "sentences from the documentation of Python",
    )
    parser.add_argument(
        "--cosine",
        type=float,
        default=0.999,
        help="least mean cosine of the new vectors, or of the logits of a head, to those before; default: 0.999",
    )
    parser.add_argument("--force", action="store_true", help="replace the target folder if it contains a saved model")
    check_names("quantize", arguments, ("--texts", "--cosine", "--force", "--help", "-h"))
    parsed = parser.parse_args(arguments)
    if not 0 <= parsed.cosine <= 1:
        raise UsageError(f"--cosine must be between 0 and 1, got {parsed.cosine}.")

    @_without_traceback
    def run() -> None:
        from .quantization.command import quantize_checkpoint

        quantize_checkpoint(parsed.source, parsed.target, parsed.texts, parsed.cosine, parsed.force)

    return run


def calibrate(arguments: list[str]) -> Run:
    """Calibrate the scores of a model, and let it return sets of answers and refuse unfamiliar texts."""
    from .evaluation.calibration_arguments import CALIBRATE, check_libraries

    parsed = CALIBRATE.check(arguments)
    check_libraries()

    @_without_traceback
    def run() -> None:
        from .evaluation.calibrate_command import calibrate_checkpoint

        calibrate_checkpoint(*parsed)

    return run


def evaluate(arguments: list[str]) -> Run:
    """Measure a model on files, say whether they have shifted, and estimate its accuracy without labels."""
    from .evaluation.arguments import EVALUATE, check_libraries

    parsed = EVALUATE.check(arguments)
    check_libraries()

    @_without_traceback
    def run() -> None:
        from .evaluation.evaluate_command import evaluate_checkpoint

        evaluate_checkpoint(*parsed)

    return run


def inspect(arguments: list[str]) -> Run:
    """Say from its config.json alone whether and how a checkpoint can be converted, and how large the model is."""
    from .command_line.parser import check_names

    parser = argparse.ArgumentParser(
        prog="sequence-encoder inspect",
        description=f"{inspect.__doc__}\n\n  sequence-encoder inspect google-bert/bert-base-uncased",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", help="folder or Hub id of the checkpoint")
    parser.add_argument("--json", action="store_true", help="print the same facts as JSON, for scripts")
    check_names("inspect", arguments, ("--json", "--help", "-h"))
    parsed = parser.parse_args(arguments)

    @_without_traceback
    def run() -> None:
        from .command_line.without_torch import without_torch

        with without_torch(), quiet_libraries():
            from .conversion.inspection import inspect

            found = inspect(parsed.model)
        print(json.dumps(found.as_dict(), indent=2) if parsed.json else found)

    return _WithoutModels(run)


def embed(arguments: list[str]) -> Run:
    """Write a vector for each row of a corpus of any size, to Parquet, NumPy or LanceDB, and continue after a stop."""
    from .bulk.arguments import EMBED, check_libraries

    parsed = EMBED.check(arguments)
    check_libraries("embed", parsed[2].format, parsed[-1].engine)

    @_without_traceback
    def run() -> None:
        from .bulk.commands import embed

        embed(*parsed)

    return run


def predict(arguments: list[str]) -> Run:
    """Write a label and a score for each row of a corpus with a classifier or a cross-encoder, like embed."""
    from .bulk.arguments import PREDICT, check_libraries

    parsed = PREDICT.check(arguments)
    check_libraries("predict", engine=parsed[-1].engine)

    @_without_traceback
    def run() -> None:
        from .bulk.commands import predict

        predict(*parsed)

    return run


def index(arguments: list[str]) -> Run:
    """Make an index of the texts of a corpus with LanceDB, to search them by meaning and by words."""
    from .search.arguments import INDEX, check_libraries

    parsed = INDEX.check(arguments)
    check_libraries("index")

    @_without_traceback
    def run() -> None:
        from .search.indexing import index

        index(*parsed)

    return run


def search(arguments: list[str]) -> Run:
    """Print the texts of an index that fit a query best."""
    from .search.arguments import SEARCH, check_libraries

    (parsed,) = SEARCH.check(arguments)
    check_libraries("search")

    @_without_traceback
    def run() -> None:
        from .search.printing import search

        search(parsed)

    return _WithoutModels(run) if parsed.mode == "text" and parsed.rerank is None else run


def choose(arguments: list[str]) -> Run:
    """Choose the texts of a corpus that are most useful to label next, and say why."""
    from .labelling.arguments import CHOOSE, check_output

    parsed = CHOOSE.check(arguments)
    check_output(*parsed[1:])

    @_without_traceback
    def run() -> None:
        from .labelling.choosing import choose

        choose(*parsed)

    return run


def serve(arguments: list[str]) -> Run:
    """Serve models over HTTP: vectors, ranking, classification and masks, for clients of OpenAI and TEI."""
    from .serving.arguments import read_arguments
    from .serving.libraries import check_libraries

    options = read_arguments(serve.__doc__, arguments)
    check_libraries("serve")

    @_without_traceback
    def run() -> None:
        from .serving.command import serve

        serve(options)

    return run


def explain(arguments: list[str]) -> Run:
    """Show which words of a text a model relies on, and how faithful that explanation is to the model."""
    from .explanation.arguments import EXPLAIN, check_libraries

    texts, options = EXPLAIN.check(arguments)
    check_libraries(options)

    @_without_traceback
    def run() -> None:
        from .explanation.command import explain

        indexed = None
        if options.index is not None:
            from .search.examples import IndexedExamples

            indexed = IndexedExamples(options.index, options.label_column)
        explain(texts, options, indexed)

    return run


COMMANDS: dict[str, Callable[[list[str]], Run]] = {
    "quickstart": quickstart,
    "pretrain": pretrain,
    "adapt": adapt,
    "convert": convert,
    "export": export,
    "quantize": quantize,
    "calibrate": calibrate,
    "evaluate": evaluate,
    "inspect": inspect,
    "embed": embed,
    "predict": predict,
    "explain": explain,
    "index": index,
    "search": search,
    "choose": choose,
    "serve": serve,
}


def main(arguments: list[str] | None = None, before_run: Callable[[], object] = lambda: None) -> None:
    """Run the command that the first argument names. Each command has its own `--help`.

    Args:
        arguments: The arguments. Defaults to those of the process.
        before_run: A function to call once the arguments are parsed.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    summary = "\n".join(f"  {name:<12} {command.__doc__}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="sequence-encoder",
        description=f"commands:\n{summary}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__, help="show the version and exit")
    parser.add_argument("command", choices=COMMANDS, help="command to run; COMMAND --help lists its options")
    command = parser.parse_args(arguments[:1]).command
    try:
        run = COMMANDS[command](arguments[1:])
        if isinstance(run, _WithoutModels):
            run()
            return
        before_run()
        with quiet_libraries(dataset_bars=command == "pretrain"), lines_in_logs():
            run()
    except UsageError as error:
        sys.exit(f"sequence-encoder {command}: {error}")
    except KeyboardInterrupt as interruption:
        print(f"\nsequence-encoder {command}: {str(interruption) or 'Interrupted.'}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if is_disk_full(error):
            reason = str(error).partition("\n")[0]
            advice = "Free some space and run the same command again."
            sys.exit(f"sequence-encoder {command}: The disk is full ({reason}). {advice}")
        if isinstance(error, OSError):
            sys.exit(f"sequence-encoder {command}: {error}")
        raise


if __name__ == "__main__":
    main()
