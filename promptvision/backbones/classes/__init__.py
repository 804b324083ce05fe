"""Text of many classes: chunks that fit into the free memory, shares of processes, texts from a later block on."""
