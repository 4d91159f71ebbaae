"""What the later verbs learn from: recorded rows as latents, stretches with labels, action chunks."""
