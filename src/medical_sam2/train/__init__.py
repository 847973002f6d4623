"""Training: a recipe (`config`) is run by `loop.Training`, which `train_step.TrainStep` gives the loss of each step.

`finetune` and `adapt` train on a user's own data. Import the modules; nothing is exported here.
"""
