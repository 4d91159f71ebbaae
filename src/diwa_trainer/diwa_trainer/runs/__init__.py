"""What a verb leaves on disk: the run folder, files of trained networks and their loaders, result files."""
