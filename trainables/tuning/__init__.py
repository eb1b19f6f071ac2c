"""Ways to fine-tune a backbone: which of its parameters are trained, and what is added to it."""
