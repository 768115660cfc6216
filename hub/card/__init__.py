"""Model cards: what they say of a model, and the sections that commands add to them."""
