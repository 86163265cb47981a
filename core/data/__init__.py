"""Data sets: formats, the prompt template, the tokenizer and batches. Independent of models."""
