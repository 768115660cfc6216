"""How encoders are trained. Nothing here is needed to use one."""
