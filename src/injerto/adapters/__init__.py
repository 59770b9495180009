"""What goes out: the tensors that changed, the head, and the card; saving, checking, loading."""
