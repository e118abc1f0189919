"""Predictions and embeddings of millions of photos on a Ray cluster; scheduling and recovery are Ray's."""
