"""Every mistake on the command line ends in one line that names it, before anything is computed or written."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from sequence_encoder.__main__ import main
from sequence_encoder.data import documentation
from sequence_encoder.tests.fixtures.texts import TEXTS

NO_DATA = "adapt nowhere --task classification"
ADAPT = f"{NO_DATA} --train_file train.csv"
PRETRAIN = "pretrain --corpus texts.jsonl --output_dir out --size tiny --vocab_size 300 --num_proc 1 --report_to none"
PRETRAIN += " --max_length 48 --max_tokens 192"
DIFFUSION = f"{PRETRAIN} --objective diffusion"
PREDICT = "predict a --corpus b --output_dir c"
EXTRACT = "extract a --corpus b --output_dir c"
CALIBRATE = "calibrate a --output_dir b --calibration_file"
EVALUATE = "evaluate model --output_dir report --test_file a=x.csv"

# Each mistake, and a part of its error. The parser alone finds most of these.
PARSED: list[tuple[str, str]] = [
    ("", "COMMAND must be given; the commands are quickstart, convert, "),
    ("quickstrat", "there is no command 'quickstrat' (did you mean quickstart?); the commands are "),
    ("--pretraining_steps 3", "there is no command '--pretraining_steps'; the commands are "),
    # Names
    (f"{ADAPT} --lr 1", "--lr (did you mean --learning_rate?)"),
    (f"{ADAPT} --batch-size 8", "--batch-size (did you mean --per_device_train_batch_size?)"),
    (f"{ADAPT} --epochs=3", "--epochs (did you mean --num_train_epochs?)"),
    (f"{ADAPT} --learning 3", "--learning (did you mean --learning_rate?)"),
    (f"{ADAPT} --gradient_acumulation_steps 3", "(did you mean --gradient_accumulation_steps?)"),
    (f"{ADAPT} --zzz --nonsense", "no option --zzz, --nonsense. See sequence-encoder adapt --help."),
    ("adapt --data a.csv --from b", "--data (did you mean --train_file?), --from (did you mean MODEL?)"),
    ("pretrain --data a.txt --out b", "--data (did you mean --corpus?), --out (did you mean --output_dir?)"),
    ("convert a --force", "--force (did you mean --overwrite?)"),
    ("convert a --base", "--base (did you mean --base_model?)"),
    ("export a --to onnx", "--to (did you mean --format?)"),
    ("export a --output_dir b --dtypes q8", "--dtypes is only for --format transformers.js and --layout hub"),
    ("export a --output_dir b --format transformers.js --dtypes int8", "must be some of fp32, fp16, q8, q4, got int8"),
    ("export a --output_dir b --text_file c", "--text_file c is only for q8"),
    ("index a --corpus documentation --output_dir b --overwrite", "--overwrite needs --static_site, got --overwrite"),
    ("export a --output_dir b --layout webgpu", "--layout webgpu needs --format transformers.js, got onnx"),
    ("export a --output_dir b --layout hub", "--layout hub adds files to MODEL, so --output_dir must be a, got b"),
    ("embed a --precison int8", "--precison (did you mean --precision?)"),
    (
        "predict a --corpus b --output_dir c --then d --then_below 2",
        "--then_below must be a number from 0 to 1, got 2.0",
    ),
    ("predict a --corpus b --output_dir c --then_below 0.5", "--then_below needs --then, got --then_below 0.5"),
    ("predict a --precision float32", "--precision (did you mean --dtype?)"),
    ("calibrate a --file b.csv", "--file (did you mean --calibration_file?)"),
    ("explain a --file b.csv", "--file (did you mean --text_file?)"),
    ("serve a --prot 1", "--prot (did you mean --port?)"),
    ("inspect a --jsn", "--jsn (did you mean --json?)"),
    # Places
    ("adapt", "MODEL and --task must be given. For example: sequence-encoder adapt "),
    ("embed --corpus a.csv --output_dir b", "MODEL must be given, before the options. For example: sequence-encoder "),
    ("inspect --json a", "MODEL must be given, before the options. "),
    ("embed", "MODEL, --corpus and --output_dir must be given. "),
    ("quantize a", "--output_dir must be given. For example: sequence-encoder quantize "),
    ("predict a --output_dir b", "--corpus must be given. "),
    (f"{PREDICT} --multi_label", "--multi_label needs --labels, got --multi_label True"),
    (f"{PREDICT} --labels cat dog cat", "--labels must name each label once, and none may be empty, got ['cat', 'dog'"),
    (f"{PREDICT} --labels cat --coverage 0.9", "--coverage cannot be used with --labels, got --coverage 0.9"),
    (
        f"{PREDICT} --labels cat --hypothesis_template so",
        "--hypothesis_template must have {} in the place of the",
    ),
    (EXTRACT, "either --labels or --label_descriptions must be given, got neither"),
    (
        f"{EXTRACT} --labels cat --label_descriptions {{}}",
        "either --labels or --label_descriptions must be given, got both",
    ),
    (f"{EXTRACT} --labels cat cat", "--labels must name each label once, and none may be empty, got ['cat', 'cat']"),
    (f"{EXTRACT} --label_descriptions {{}}", "--label_descriptions must have at least one label"),
    (f"{EXTRACT} --label_descriptions nowhere.json", "--label_descriptions must be a JSON object or a file with one"),
    (
        f"{EXTRACT} --label_descriptions '{{\"a\":1}}'",
        "must have a text that is not empty for each label, got 1 for 'a'",
    ),
    (f"{EXTRACT} --labels cat --threshold 2", "--threshold must be a number from 0 to 1, got 2.0"),
    ("distill a --output_dir b", "--corpus must be given. "),
    ("distill --corpus b", "MODEL must be given, before the options. "),
    (
        "distill a --corpus b --label_column c",
        "--label_column needs a --test_file, since the texts of --corpus need no",
    ),
    ("distill a --corpus b --dim 64", "--dim needs --static; --hidden_size makes other students narrower"),
    ("distill a --static --layers 2", "--layers has no effect with --static; leave one of them out"),
    ("distill a --corpus b --layers 0", "--layers must be at least 1, got 0"),
    ("distill a --corpus b --matryoshka_dims 0", "--matryoshka_dims must be at least 1, got 0"),
    ("distill a --corpus b --minutes 3", "--minutes (did you mean --seconds?)"),
    ("search", "QUERY and --index must be given. "),
    ("search package.json", "search: --index must be given. "),
    ("search -5", "search: --index must be given. "),
    ("calibrate a --output_dir b", "--calibration_file must be given. "),
    ("evaluate a --output_dir b", "--test_file must be given. "),
    ("convert a b", "b is unexpected: convert takes only MODEL. For example: sequence-encoder convert "),
    ("embed a --output_dir b --corpus a.csv b.csv", "b.csv does not belong to any option; --corpus takes one value."),
    ("explain a", "exactly one of --text and --text_file is needed, got neither"),
    # Values
    (f"{ADAPT} --seeds many", "--seeds must be an integer, got 'many'."),
    (f"{ADAPT} --seconds many", "--seconds must be a number, got 'many'."),
    (f"{ADAPT} --tuning", "--tuning needs a value."),
    ("pretrain --size huge", "--size must be one of tiny, mini, small, medium, base, large, got 'huge'."),
    ("embed a --output_dir b --corpus c --format csv", "--format must be one of "),
    (f"{ADAPT} --tuning lora --task embedding", "--tuning lora does not support --task embedding; choose one of "),
    ("quickstart --pretraining_steps 0", "--pretraining_steps must be at least 1, got 0."),
    ("quickstart --adaptation_steps -3", "--adaptation_steps must be at least 1, got -3."),
    ("quickstart --seed -1", "--seed must be from 0 to 4294967295, got -1."),
    ("quickstart bert --pretraining_steps 9", "--pretraining_steps has no effect with MODEL"),
    ("pretrain m --corpus a.txt --size tiny", "--size has no effect with MODEL; leave one of them out."),
    ("pretrain m --corpus a.txt --vocab_size 300", "--vocab_size has no effect with MODEL"),
    ("pretrain --tokenizer m --corpus a.txt --vocab_size 300", "--vocab_size has no effect with --tokenizer"),
    (f"{ADAPT} --task multi-label --label_separator=", "--label_separator must have at least one character"),
    ("quantize a --output_dir b --cosine 2", "--cosine must be between 0 and 1, got 2.0."),
    (f"{CALIBRATE} absent.csv --coverages 2", "--coverages must be numbers between 0 and 1, such as 0.9, got 2.0."),
    (f"{CALIBRATE} absent.csv", "--calibration_file absent.csv: there is no such file"),
    (f"{CALIBRATE} header.csv", "--calibration_file header.csv has no examples"),
    (f"{CALIBRATE} absent.csv --output_dir notes", "notes exists and does not contain a saved model"),
    ("serve a --port -1", "--port must be from 0 to 65535, got -1."),
    ("serve a --max_texts 0", "--max_texts must be at least 1, got 0."),
    ("serve a --label_names_file names.txt", "--label_names_file needs --label_file."),
    ("explain a --text b --text_pair_column c", "--text_pair_column needs --text_file"),
    ("explain a --text_file b --text_pair c", "--text_pair needs --text"),
    ("explain a --text b --attention 1", "--attention needs --output_dir"),
    ("explain a --text b --seed -1", "--seed must be at least 0, got -1."),
    ("explain a --text b --samples 9", "--samples needs --method shapley or integrated_gradients, got occlusion"),
    ("evaluate a --output_dir b --test_file home=", "--test_file must be FILE or NAME=FILE, such as home=movies.csv"),
    (f"{EVALUATE} a=y.csv", "--test_file has two files named a; name one of them differently, such as a2=y.csv"),
    (f"{EVALUATE} --test_file b=./x.csv", "--test_file has ./x.csv twice"),
    (f"{EVALUATE} --seed -1", "--seed must be at least 0, got -1"),
    (f"{EVALUATE} --bootstrap_samples 0", "--bootstrap_samples must be at least 1, got 0"),
    (f"{EVALUATE} --matched_dir m", "--matched_dir needs --match"),
    (f"{EVALUATE} --label_shares b=0.5", "--label_shares needs --match and --matched_dir"),
    (f"{EVALUATE} --matched_dir m --match b", "--match must be one of a, got b"),
    (f"{EVALUATE} --matched_dir m --match a --label_shares b=x", "--label_shares must be LABEL=SHARE"),
    (f"{EVALUATE} --matched_dir m --match a --label_shares b=0.5 b=0.5", "must have each label once, got b twice"),
    (f"{EVALUATE} --matched_dir ./report --match a", "must be different folders, got ./report twice"),
    ("evaluate a --output_dir b --test_file nowhere.csv", "--test_file nowhere.csv: there is no such file"),
    ("evaluate a --output_dir b --test_file empty.csv", "--test_file empty.csv is empty"),
    ("evaluate a --output_dir b --test_file a=b.csv", "--test_file a=b.csv is empty"),
]
# A row that starts like a settings file is one.
MISTAKES: list[tuple[str, str]] = [
    *PARSED,
    (
        f"{NO_DATA} --tuning adapter --task ner",
        "--tuning adapter does not support --task ner; choose one of auto, full, head",
    ),
    (f"{NO_DATA} --tuning prompt --task ner", "--tuning prompt does not support --task ner"),
    (f"{NO_DATA} --tuning prompt --task qa", "--tuning prompt does not support --task qa"),
    (
        f"{NO_DATA} --tuning lora --task embedding",
        "--tuning lora does not support --task embedding; choose one of auto, full",
    ),
    (f"{NO_DATA}", "exactly one of --train_file and --dataset_name is needed, got neither"),
    (f"{NO_DATA} --rank 4", "--rank has no effect with --tuning auto; it is for --tuning lora or dora."),
    (f"{NO_DATA} --rank 4 --tuning head", "--rank has no effect with --tuning head"),
    (f"{NO_DATA} --rank 4 --tuning lora --from_adapter b", "--rank has no effect with --from_adapter"),
    (f"{NO_DATA} --prompt_length 4 --tuning lora", "--prompt_length has no effect with --tuning lora"),
    (
        f"{NO_DATA} --pooling cls --task ner",
        "--pooling has no effect with --task ner; it is for --task classification, ",
    ),
    (f"{NO_DATA} --pooling cls --task ranking", "--pooling has no effect with --task ranking"),
    (f"{NO_DATA} --doc_stride 8", "--doc_stride has no effect with --task classification; it is for --task qa."),
    (f"{NO_DATA} --matryoshka_dims 8", "--matryoshka_dims has no effect with --task classification"),
    (f"{NO_DATA} --label_separator ';'", "--label_separator has no effect with --task classification"),
    (f"{NO_DATA} --choice_columns a", "--choice_columns has no effect with --task classification"),
    (
        f"{NO_DATA} --held_out_labels a --task ner",
        "--held_out_labels has no effect with --task ner; it is for --task extraction",
    ),
    (f"{NO_DATA} --text_pair_column a --task ner", "--text_pair_column has no effect with --task ner"),
    (
        f"{ADAPT} --eval_steps 5",
        "--eval_steps has no effect with --eval_strategy epoch; it is for --eval_strategy steps.",
    ),
    (f"{NO_DATA} --save_steps 5 --save_strategy no", "--save_steps has no effect with --save_strategy no"),
    (
        f"{NO_DATA} --validation_share 0.2 --validation_file b",
        "--validation_share has no effect with --validation_file",
    ),
    (f"{ADAPT} --num_train_epochs 2 --max_steps 8", "--num_train_epochs has no effect with --max_steps"),
    (f"{ADAPT} --dataset_name b", "exactly one of --train_file and --dataset_name is needed, got both"),
    (f"{ADAPT} --max_length 3", "--max_length must be at least 8, got 3"),
    (f"{ADAPT} --seeds 0", "--seeds must be at least 1, got 0"),
    (f"{ADAPT} --average_seeds True", "--average_seeds needs --seeds of at least 2, got 1"),
    (f"{ADAPT} --validation_share 1.5", "--validation_share must be between 0 and 1, got 1.5"),
    (f"{ADAPT} --save_strategy best", "--save_strategy must be one of no, steps, "),
    (f"{ADAPT} --num_train_epochs 0", "--num_train_epochs must be above 0, got 0"),
    (f"{ADAPT} --num_train_epochs=-1", "--num_train_epochs must be above 0, got -1"),
    (f"{ADAPT} --learning_rate=-1", "--learning_rate must be above 0, got -1"),
    (f"{ADAPT} --per_device_train_batch_size 0", "--per_device_train_batch_size must be at least 1"),
    (f"{ADAPT} --prediction_loss_only True", "--prediction_loss_only must be False, got True"),
    (f"{ADAPT} --report_to wandb", "pip install wandb"),
    (f"{ADAPT} --from_adapter b", "--from_adapter needs --tuning to be one of lora, dora, ia3, got"),
    (f"{ADAPT} --from_adapter b --tuning prompt", "--from_adapter needs --tuning to be one of lora"),
    (f"{ADAPT} --learning_rat 3", "there is no option --learning_rat (did you mean --learning_rate?)"),
    (f"{ADAPT} --test_split test --train_file b", "--test_split has no effect with --train_file"),
    (f"{ADAPT} --early_stopping_patience 2 --eval_strategy no", "--early_stopping_patience needs"),
    (f"{ADAPT} --rank 99999999 --tuning lora", "--rank must be at most 10,000"),
    (f"{ADAPT} --prompt_length 99999999 --tuning prompt", "--prompt_length must be at most 10,000"),
    (f"{ADAPT} --max_length 999999999999999999999", "--max_length must be at most 1,000,000"),
    (f"{ADAPT} --seed 4294967295 --seeds 2", "--seed must be at most 4294967294 with --seeds 2"),
    (f"{ADAPT} --neftune_noise_alpha=-5", "--neftune_noise_alpha must be at least 0"),
    (f"{ADAPT} --optim adamw_torch_npu_fused", "--optim adamw_torch_npu_fused: "),
    (f"{ADAPT} --lr_scheduler_type warmup_stable_decay", "--lr_scheduler_type warmup_stable_decay: "),
    (f"{ADAPT} --lr_scheduler_kwargs '{{\"nope\":1}}'", "--lr_scheduler_type linear, --lr_scheduler_kwargs "),
    (f"{ADAPT} --text_column label", "--text_column and --label_column must name different columns"),
    (f"{ADAPT} --text_pair_column text", "--text_column and --text_pair_column must name different columns"),
    (f"{ADAPT} --output_dir /", "/ contains nowhere"),
    (f"{ADAPT} --task infilling --masked_tuning True", "--masked_tuning has no effect with --task infilling"),
    (f"{ADAPT} --task infilling --calibrate yes", "--calibrate has no effect with --task infilling"),
    (f"{ADAPT} --task infilling --label_column label", "--label_column has no effect with --task infilling"),
    (f"{ADAPT} --task infilling --text_pair_column pair", "--text_pair_column has no effect with --task infilling"),
    (f"{ADAPT} --task infilling --block_length 4", "--block_length has no effect with --task infilling"),
    (f"{ADAPT} --task infilling --pooling mean", "--pooling has no effect with --task infilling"),
    (f"{ADAPT} --task infilling --tuning head", "--tuning head does not support --task infilling"),
    (f"{ADAPT} --task infilling --max_gap_tokens 0", "--max_gap_tokens must be at least 1, got 0"),
    (f"{ADAPT} --task conversation --masked_tuning True", "--masked_tuning has no effect with --task conversation"),
    (
        f"{ADAPT} --task conversation --calibration_file some.jsonl",
        "--calibration_file has no effect with --task conversation",
    ),
    (f"{ADAPT} --task conversation --max_gap_tokens 4", "--max_gap_tokens has no effect with --task conversation"),
    (f"{ADAPT} --task conversation --tuning prompt", "--tuning prompt does not support --task conversation"),
    (f"{ADAPT} --task conversation --block_length 0", "--block_length must be at least 1, got 0"),
    (f"{PRETRAIN} --corpus nowhere/at/all.jsonl", "no such file"),
    (f"{PRETRAIN} --max_tokens 16", "--max_tokens must be at least --max_length 48, got 16"),
    (f"{PRETRAIN} --max_length 3", "--max_length must be at least 5"),
    (f"{PRETRAIN} --preset berd", "berd"),
    (f"{PRETRAIN} --mlm_probability 1.5", "mlm_probability must be between 0 and 1, got 1.5"),
    (f"{PRETRAIN} --mlm_weight 0 --sop_weight 0", "nothing to learn"),
    (f"{PRETRAIN} --config_overrides hidden_size", "name=value"),
    (f"{PRETRAIN} --config_overrides hidden_size=33,num_attention_heads=2", "not divisible"),
    (f"{PRETRAIN} --config_overrides hiden_size=32", "hiden_size"),
    (f"{PRETRAIN} --tokenizer no/tokenizer/here", "--tokenizer"),
    (f"{PRETRAIN} --eval_documents 1000", "--eval_documents must be less than"),
    (f"{PRETRAIN} --vocab_size 3", "vocab_size"),
    (f"{PRETRAIN} --streaming True --max_steps=-1", "--max_steps"),
    (f"{PRETRAIN} --train_sampling_strategy random", "sequential"),
    (f"{PRETRAIN} --ema_decay 1", "--ema_decay"),
    (f"{PRETRAIN} --start_share 0.3", "--start_share needs --model"),
    (
        "pretrain model --corpus texts.jsonl --start_share 0.3 --load_best_model_at_end True --eval_documents 3",
        "--start_share and --load_best_model_at_end both replace the final weights",
    ),
    (
        "pretrain model --corpus texts.jsonl --output_dir out --start_share 1",
        "--start_share must be at least 0 and below 1, got 1",
    ),
    (f"{PRETRAIN} --text_column body", "text"),
    (f"{PRETRAIN} --resume True --overwrite True", "set only one"),
    (f"{PRETRAIN} --label_smoothing_factor 0.1", "--label_smoothing_factor must be 0"),
    (f"{PRETRAIN} --resume_from_checkpoint checkpoint-3", "--resume_from_checkpoint must be None"),
    (f"{PRETRAIN} --save_only_model True", "--save_only_model must be False"),
    (f"{PRETRAIN} --num_train_epochs 0", "--num_train_epochs must be above 0, got 0"),
    (f"{PRETRAIN} --num_train_epochs nan", "--num_train_epochs must be above 0, got nan"),
    (f"{PRETRAIN} --max_steps 0", "--max_steps must be at least 1, or -1 to train for --num_train_epochs, got 0"),
    (f"{PRETRAIN} --max_steps=-2", "--max_steps must be at least 1, or -1"),
    (f"{PRETRAIN} --per_device_train_batch_size 0", "--per_device_train_batch_size must be at least 1, got 0"),
    (f"{PRETRAIN} --gradient_accumulation_steps=-1", "--gradient_accumulation_steps must be at least 1, got -1"),
    (f"{PRETRAIN} --learning_rate=-1", "--learning_rate must be above 0, got -1"),
    (f"{PRETRAIN} --learning_rate inf", "--learning_rate must be above 0, got inf"),
    (f"{PRETRAIN} --adam_beta2 1", "--adam_beta2 must be at least 0 and below 1, got 1"),
    (f"{PRETRAIN} --save_steps 0", "--save_steps must be above 0, got 0"),
    (f"{PRETRAIN} --weight_decay=-0.1", "--weight_decay must be at least 0, got -0.1"),
    (f"{PRETRAIN} --seed=-1", "--seed must be from 0 to 4294967295, got -1"),
    (f"{PRETRAIN} --report_to nowhere", "--report_to nowhere: nowhere is not supported, only"),
    (f"{PRETRAIN} --eval_strategy steps", "--eval_documents"),
    (f"{PRETRAIN} --ema_decay 0.5 --load_best_model_at_end True --eval_documents 3", "--load_best_model_at_end"),
    (
        f"{PRETRAIN} --streaming True --max_steps 8 --dataloader_num_workers 2",
        "--dataloader_num_workers must be 0",
    ),
    (
        f"{PRETRAIN} --config_overrides num_attention_heads=7",
        "hidden_size=128 is not divisible by num_attention_heads=7",
    ),
    (f"{PRETRAIN} --config_overrides norm=batch", "Field 'norm' expected one of ('layer_norm', 'rms_norm'), got batch"),
    (f"{PRETRAIN} --config_overrides layers=3", "--config_overrides layers: SequenceEncoderConfig has no such field"),
    (f"{PRETRAIN} --config_overrides num_hidden_layers=1000000000", "num_hidden_layers must be at most 10,000"),
    (f"{PRETRAIN} --vocab_size=-5", "--vocab_size must be at least 7 for --algorithm wordpiece, got -5"),
    (f"{PRETRAIN} --config_overrides pad_token_id=9", "--config_overrides pad_token_id: the tokenizer sets this field"),
    (f"{PRETRAIN} --vocab_size 999999999999999999999", "--vocab_size must be at most 10,000,000"),
    (f"{PRETRAIN} --max_tokens 999999999999999999999", "--max_tokens must be at most 100,000,000"),
    (f"{PRETRAIN} --lr_scheduler_type cosine_with_min_lr", "--lr_scheduler_type cosine_with_min_lr: One of min_lr"),
    (f"{PRETRAIN} --split test", "--split test needs a Hub dataset"),
    (f"{PRETRAIN} --eval_strategy steps", "--eval_strategy steps needs --eval_documents"),
    (f"{PRETRAIN} --output_dir /proc/x", "--output_dir /proc/x cannot be written"),
    (f"{DIFFUSION} --sop_weight 1", "--sop_weight has no effect with --objective diffusion"),
    (f"{DIFFUSION} --mlm_weight 1", "--mlm_weight has no effect"),
    (f"{DIFFUSION} --mlm_probability 0.3", "--mlm_probability has no effect"),
    (f"{DIFFUSION} --final_mlm_probability 0.15", "--final_mlm_probability has no effect"),
    (f"{DIFFUSION} --mlm_schedule constant", "--mlm_schedule has no effect"),
    (f"{DIFFUSION} --whole_word_mask False", "--whole_word_mask has no effect"),
    (f"{DIFFUSION} --objective diffuse", "diffuse"),
    ("serve nowhere --api_key 'k\n'", "--api_key must be printable ASCII text without spaces or newlines at its ends"),
    ("serve nowhere other/nowhere nowhere=other", "different names, got nowhere, other/nowhere, nowhere. Put NAME="),
    ("serve nowhere name=", "must be a folder, a Hub id or NAME=MODEL, got 'name='"),
    ("serve nowhere --label_file nowhere.csv", "nowhere.csv: there is no such file"),
    ("serve nowhere --device banana", "--device banana: "),
    ("serve nowhere --host 203.0.113.1", "Cannot listen on 203.0.113.1, port 8080: "),
    # Settings files
    ("pretrain nowhere.yaml", "there is no file nowhere.yaml"),
    ("rank: many", "--rank must be an integer, got 'many'."),
    ("rank: {a: 1}", "--rank must be an integer, got "),
    ("overwrite: perhaps", "--overwrite must be True or False, got 'perhaps'."),
    ("lr_scheduler_kwargs: '{a'", "--lr_scheduler_kwargs must be a JSON object or a file with one, got '{a'"),
    ("lr: 3\nsise: 2", "--lr (did you mean --learning_rate?), --sise"),
    ("- task", "settings.yaml must contain names and values, got list"),
    ("task: [", "settings.yaml cannot be read"),
]
LIBRARIES = [
    ("seqeval", f"{ADAPT} --task ner", "--task ner needs seqeval"),
    ("matplotlib", f"{ADAPT}", "--task classification needs matplotlib"),
    ("sklearn", f"{ADAPT}", "--task classification needs sklearn"),
    ("scipy", f"{ADAPT} --task regression", "--task regression needs scipy"),
    ("sentence_transformers", f"{ADAPT} --task embedding", "--task embedding needs sentence_transformers"),
    ("sentence_transformers", f"{ADAPT} --task ranking", "--task ranking needs sentence_transformers"),
    ("peft", f"{ADAPT} --tuning lora", "--tuning lora needs peft"),
    ("optuna", f"{ADAPT} --search_trials 2", "--search_trials needs optuna"),
    ("datasets", f"{ADAPT}", "adapt needs datasets"),
    ("tensorboard", f"{ADAPT} --report_to tensorboard", "--report_to tensorboard needs tensorboard"),
    ("matplotlib", f"{PRETRAIN}", "pip install 'sequence-encoder[train]'"),
    ("datasets", f"{PRETRAIN}", "pip install 'sequence-encoder[train]'"),
    ("tensorboard", f"{PRETRAIN} --report_to tensorboard", "pip install 'sequence-encoder[train]'"),
    ("wandb", f"{PRETRAIN} --report_to wandb", "pip install wandb"),
    ("trackio", f"{PRETRAIN} --report_to trackio", "pip install trackio"),
    ("deepspeed", f"{PRETRAIN} --deepspeed '{{\"train_batch_size\":1}}'", "pip install deepspeed"),
    ("schedulefree", f"{PRETRAIN} --muon False --optim schedule_free_adamw", "pip install schedulefree"),
    ("fastapi", "serve nowhere", "pip install 'sequence-encoder[serve]'"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with small files, and fail if a command searches the installed libraries."""

    def refuse() -> NoReturn:
        raise AssertionError("The command searched the installed libraries.")

    monkeypatch.setattr(documentation, "find_libraries", refuse)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    for name in ("notes/a.txt", "empty.csv", "a=b.csv"):
        (tmp_path / name).touch()
    (tmp_path / "header.csv").write_text("text,label\n")
    (tmp_path / "train.csv").write_text("text,label\na text,1\n")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files in a folder, without the arguments and the lock of `pretrain`."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if not name.startswith("out/_pretraining/")}


def error_of(folder: Path, *arguments: str) -> str:
    """Return the error of a command line, which has one line, and check that the command wrote nothing."""
    before = contents(folder)
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    message = str(stopped.value.code)
    assert len(message.splitlines()) == 1, message
    assert contents(folder) == before
    return message


# `distill` looks for its libraries first.
MISTAKES_OF_DISTILL: list[tuple[str, str]] = [
    ("distill a --corpus b --seconds 60 --max_steps 9", "--seconds has no effect with --max_steps; leave one of them"),
    ("distill a --corpus b --per_device_train_batch_size 8", "--per_device_train_batch_size must be 1, got 8"),
    ("distill a --corpus b --resume --overwrite", "--resume continues a run and --overwrite starts over; set only one"),
]
WRITES_NULL_VECTORS = pytest.mark.since("pyarrow", "26", "writes null vectors")


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        *(pytest.param(*each, id=each[0][:60]) for each in MISTAKES),
        *(pytest.param(*each, id=each[0][:60], marks=WRITES_NULL_VECTORS) for each in MISTAKES_OF_DISTILL),
    ],
)
def test_a_mistake_ends_in_one_line_that_names_it(folder: Path, mistake: str, expected: str) -> None:
    arguments = shlex.split(mistake)
    if re.match(r"\w+: |- ", mistake):
        (folder / "settings.yaml").write_text(mistake)
        arguments = ["adapt", "settings.yaml", *ADAPT.split()[2:], "--model", "somewhere"]
    assert expected in error_of(folder, *arguments)


@pytest.mark.parametrize(("library", "command", "expected"), LIBRARIES)
def test_a_missing_library_is_reported_with_its_pip_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, library: str, command: str, expected: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    message = error_of(folder, *shlex.split(command))
    assert [part for part in (expected, library, "pip install") if part not in message] == []
