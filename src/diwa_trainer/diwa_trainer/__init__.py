"""The offline sidecar: bags in, bundle out. No rclpy, no simulator."""
