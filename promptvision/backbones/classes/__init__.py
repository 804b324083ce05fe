"""Very many classes: chunks that fit into the free memory, and shares of processes."""
