"""The Franka arm as ROS 2 topics; so far the part that keeps it safe, which needs neither arm nor ROS."""
