"""Which visual tokens go on to the next layer, and why."""
