"""Self-supervised pretraining: one loop, and the criteria that share it."""
