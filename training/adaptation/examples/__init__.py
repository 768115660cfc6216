"""The examples of an adaptation: how they are read and divided, and what texts without labels add."""
