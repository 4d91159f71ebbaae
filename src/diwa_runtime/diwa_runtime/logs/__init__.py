"""What a policy's run leaves in its log, and the measures that are taken of it."""
