"""An operator's hands: devices, what they command, the marks of episodes, and the node."""
