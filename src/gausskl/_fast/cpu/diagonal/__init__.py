"""Two diagonal Gaussians that are described in the same way: one pass over the arrays."""
