"""Imitation: cloning the hindsight expert, or anybody who left demonstrations."""
