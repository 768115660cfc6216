"""Which texts go into one batch, so that batches have about as many tokens each."""


def token_batches(lengths: list[int], max_tokens: int) -> list[list[int]]:
    """Indices of texts in batches of at most `max_tokens` tokens, the shortest first; none of texts without tokens."""
    batches: list[list[int]] = []
    tokens = max_tokens
    for index in sorted((i for i, length in enumerate(lengths) if length), key=lengths.__getitem__):
        tokens += lengths[index]
        if tokens > max_tokens:
            batches.append([])
            tokens = lengths[index]
        batches[-1].append(index)
    return batches
