"""Training: a recipe (`config`) is run by `loop.Training`, which `train_step.TrainStep` gives the loss of each step.

`adapt` tunes to a user's outline. Import the modules; nothing is exported here.
"""
