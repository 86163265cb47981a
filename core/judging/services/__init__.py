"""Clients for language models: Gemini and OpenAI-compatible servers."""
