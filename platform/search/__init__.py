"""What proposes, stops, repeats and runs trials."""
