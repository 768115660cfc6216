"""Fine-tuning of an encoder for a task on labelled examples: `sequence-encoder adapt`."""
