"""What trainer and robot must agree on: ROS-free and torch-free."""
