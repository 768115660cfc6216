"""The families of models: one module describes each, and `family_modules.py` lists them."""
