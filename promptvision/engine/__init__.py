"""Training, evaluation and what they leave on disk; knows methods only by their contract."""
