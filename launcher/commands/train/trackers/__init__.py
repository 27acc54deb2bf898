"""Programs that follow many runs: TensorBoard, MLflow, Weights & Biases; each is a callback.

chosen.py makes those that the options ask for, tags.py has the names of the metrics.
"""
