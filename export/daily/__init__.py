"""The work of a day, step by step."""

STEPS = ("check", "build", "embed", "assign", "refresh", "evaluate", "publish", "train")
"""What is done on a day, in this order."""
