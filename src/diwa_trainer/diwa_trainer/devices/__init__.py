"""Where networks compute, and how exactly: a CPU or a graphics card."""
