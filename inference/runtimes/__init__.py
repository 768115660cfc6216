"""Export of models to the formats of other runtimes, and the use of exported models."""
