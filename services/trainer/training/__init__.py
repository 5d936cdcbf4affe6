"""What runs in a training process, and nowhere else: it alone imports torch and scikit-learn.

Started as `python -m services.trainer.training FOLDER`, with `order.json` and `data.parquet` in the
folder. It says how it gets on by JSON lines on its standard output and leaves the candidate's files
in the folder. Started again there, it goes on from its last checkpoint to the very same weights.
"""
