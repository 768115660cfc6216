"""Make the tests a package. Transformers executes this file when it looks up its configurations."""
