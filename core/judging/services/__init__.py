"""Language models behind a network: Gemini and OpenAI-compatible servers."""
