"""Writing with a masked language model: it fills masks and continues texts by unmasking step by step."""
