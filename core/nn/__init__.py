"""GPT-2, adapters, pretrained weights and generation. Does not know about data sets or training."""
