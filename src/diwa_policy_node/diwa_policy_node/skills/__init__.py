"""Running skills without ROS: what is observed, when to start, what to command, when to stop."""
