"""From an Alpaca-format file to padded batches of token ids. Knows no model."""
