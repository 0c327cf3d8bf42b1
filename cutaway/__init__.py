"""Train neural networks, open them up, and break them."""
