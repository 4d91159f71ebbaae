"""Where networks compute and how exactly, alone or as many processes."""
