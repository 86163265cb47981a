"""Freeze part of the model for full fine-tuning. Not used with LoRA, which freezes all base weights."""

from core.nn.gpt2 import GPT2


def freeze(model: GPT2, trained_weights: str, trained_layers: int) -> None:
    """Freeze all weights outside the part to train.

    With tied weights, the head is the token embedding: `head` trains it and `no_embeddings` freezes it.

    Args:
        trained_weights: `all`, `last_layers`, `head` or `no_embeddings`; see `RunConfig`.
        trained_layers: number of blocks to train with `last_layers`.
    """
    if trained_weights == "last_layers":
        model.requires_grad_(False)
        model.h[-trained_layers:].requires_grad_(True)
    elif trained_weights == "head":
        model.requires_grad_(False)
        model.lm_head.requires_grad_(True)
    elif trained_weights == "no_embeddings":
        model.wte.requires_grad_(False)
        model.wpe.requires_grad_(False)
