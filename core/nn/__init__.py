"""GPT-2, LoRA, pretrained weights and generation. Knows no data set and no training loop."""
