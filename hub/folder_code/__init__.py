"""What stands in the code of a saved folder for whole modules of the package.

`saving/saved_code.py` lists what stands for which module.
"""
