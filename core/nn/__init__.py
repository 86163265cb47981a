"""GPT-2, adapters, pretrained weights and generation. Knows no data set and no training loop."""
