"""Training the bundled checkpoints."""
