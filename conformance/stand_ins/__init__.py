"""Makes a package of the tests. Transformers executes this file where it wants its configurations."""
