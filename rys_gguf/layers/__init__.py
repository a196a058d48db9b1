"""Which layer is which, and which maps an architecture may take."""
