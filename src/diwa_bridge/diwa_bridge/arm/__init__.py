"""The Franka arm and its hand: the servo and its limits, the driver, and the node."""
