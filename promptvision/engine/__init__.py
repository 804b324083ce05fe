"""Training, evaluation and the files of a run; methods are known only by their contract."""
