"""What the nodes share, with ROS; what they share without it is `diwa_runtime`."""
