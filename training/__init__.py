"""How encoders are trained: corpora, objectives and recipes. Nothing here is needed to use one."""
