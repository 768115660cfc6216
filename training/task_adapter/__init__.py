"""Training of a `TaskAdapter`, the classifier on a frozen encoder."""
