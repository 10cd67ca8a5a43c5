"""Networks, safe loading of their weights, and adapters on them."""
