"""Turn texts into the inputs of an engine: prompts, token ids, limits, shared prefixes."""
