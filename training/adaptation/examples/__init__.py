"""The examples that a task is trained on: the arguments that name them, and reading them from files or the Hub."""
