"""Tests that our models skip although their counterparts do not, because our models differ on purpose."""

_NO_DYNAMIC = "rotary positions that rescale with the longest text would make an output depend on its batch"

ACCEPTED_SKIPS = {
    "test_model_rope_scaling_from_config_1_dynamic": _NO_DYNAMIC,
    "test_model_rope_scaling_frequencies": _NO_DYNAMIC,
}
