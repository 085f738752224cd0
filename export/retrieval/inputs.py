"""What a request for candidates may say: the inputs of `serving_default`."""

import tensorflow as tf

from export.version.inputs import RequestInput

EXCLUDE_SEEN = "exclude_seen"


def retrieval_inputs(click_steps: int = 0, pay_steps: int = 0) -> dict[str, RequestInput]:
    """The inputs by name.

    Args:
        click_steps, pay_steps: how many steps of each history are read; 0 for none.
    """
    inputs = {
        "user_id": RequestInput(tf.string, "page", "", True, "user, as in the user table; others are unknown users"),
        EXCLUDE_SEEN: RequestInput(
            tf.bool, "page", True, False, "whether items that the user has, or that the histories name, are left out"
        ),
    }
    for name, steps in (("click", click_steps), ("pay", pay_steps)):
        if steps:
            text = f"items of the {name} history, newest first, of which {steps} are read; none: those that are known"
            inputs[f"{name}_item_id"] = RequestInput(tf.string, name, "", False, text)
    return inputs
