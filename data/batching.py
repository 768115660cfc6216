"""Groups texts into batches with about the same number of tokens."""


def token_batches(lengths: list[int], max_tokens: int) -> list[list[int]]:
    """Group the indices of texts into batches of at most `max_tokens` tokens, the shortest texts first.

    A text that exceeds the budget alone gets its own batch. Empty texts are left out.
    """
    batches: list[list[int]] = []
    tokens = max_tokens
    for index in sorted((i for i, length in enumerate(lengths) if length), key=lengths.__getitem__):
        tokens += lengths[index]
        if tokens > max_tokens:
            batches.append([])
            tokens = lengths[index]
        batches[-1].append(index)
    return batches
