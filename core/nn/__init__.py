"""GPT-2, adapters, pretrained weights and generation. Independent of data sets and training."""
