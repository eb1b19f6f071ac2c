"""MLflow's view of journals, sweeps and models."""
