"""How one operation is computed: the contract, and the backends that keep it."""
