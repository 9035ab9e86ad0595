"""Reviews: what is due, how memory is modelled, and how its parameters are fitted."""
