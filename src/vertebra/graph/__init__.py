"""One form of a network for all that counts, writes or reads one: operations, tensors, weights by reference."""
