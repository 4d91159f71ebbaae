"""What turns pictures into the numbers that the world model sees: trained first, then frozen."""
