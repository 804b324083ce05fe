"""Prediction at scale: inputs of any number, formats of the output, parts that resume, and work on a Ray cluster."""
