"""How fast this package is beside others on the same weights: `peers` and `own` run, `run` measures, `report` tells."""
