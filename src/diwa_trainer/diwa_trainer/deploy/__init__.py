"""From trained networks to what a robot runs."""
