"""Instruction fine-tuning experiments with GPT-2: everything but the browser pages."""
