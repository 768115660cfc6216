"""The tests that ours skip though their counterpart does not: what they are about, ours does otherwise on purpose."""

_NO_DYNAMIC = "rotary positions that rescale with the longest text would make an output depend on its batch"

ACCEPTED_SKIPS = {
    "test_model_rope_scaling_from_config_1_dynamic": _NO_DYNAMIC,
    "test_model_rope_scaling_frequencies": _NO_DYNAMIC,
}
