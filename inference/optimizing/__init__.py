"""Makes models of other libraries compute without padding, in place."""
