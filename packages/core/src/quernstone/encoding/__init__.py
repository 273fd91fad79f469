"""Texts to engine inputs: prompts, token ids, limits, shared prefixes."""
