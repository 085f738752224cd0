"""Trains a pre-trained image encoder on for a task of its own; `models.finetune` is the command."""
