"""What a trial runs: methods, their models and the training loop they share. Plain PyTorch."""
