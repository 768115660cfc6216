"""`sequence-encoder adapt`: an encoder is trained for a task, on labelled examples."""
