"""Data sets: formats, prompt template, tokenizer, batches. Does not know about models."""
