"""Data sets: formats, prompt template, tokenizer, batches. Knows no model."""
