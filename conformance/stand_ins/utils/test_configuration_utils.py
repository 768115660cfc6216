"""A stand-in for the values that `ConfigTester` sets, which the archive lacks. None of them is a default."""

config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "is_encoder_decoder": True,
    "architectures": ["BertModel"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
    "pad_token_id": 7,
    "bos_token_id": 8,
    "eos_token_id": 9,
}
