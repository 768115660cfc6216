"""The training runs of an adaptation, what they keep between interruptions, and how they end in time."""
