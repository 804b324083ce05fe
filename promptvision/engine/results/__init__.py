"""Files of results: evaluations and predictions beside a run."""
